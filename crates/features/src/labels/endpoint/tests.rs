use super::stub::{Action, Stub};
use super::*;
use crate::labels::prompts::Role;
use std::sync::atomic::{AtomicUsize, Ordering};

const KEY: &str = "sk-do-not-tell-0123456789";

fn messages() -> Vec<Message> {
    let message = |role, content: &str| Message {
        role,
        content: content.into(),
    };
    vec![
        message(Role::System, "Judge."),
        message(Role::User, "\"Is it?\"\n"),
    ]
}

fn config(url: impl Into<String>) -> EndpointConfig {
    EndpointConfig {
        key_variable: None,
        timeout: Duration::from_secs(5),
        retries: 2,
        first_wait: Duration::from_millis(1),
        ..EndpointConfig::new(url, "judge-1")
    }
}

fn endpoint(stub: &Stub) -> Endpoint {
    Endpoint::with_key(config(stub.url()), Some(KEY)).unwrap()
}

fn ask(endpoint: &Endpoint) -> Result<Reply, String> {
    let reply = endpoint.complete(&messages(), &|| false);
    reply
        .map(|reply| reply.expect("nobody stops it"))
        .map_err(|error| error.to_string())
}

fn answer(status: u16, body: &str) -> Action {
    Action::Answer(status, "", body.into())
}

#[test]
fn a_request_is_what_openai_documents_and_its_reply_is_read() {
    let stub = Stub::new(|_| Action::reply("[1, 0] \u{e9}\n"));
    let reply = ask(&endpoint(&stub)).unwrap();
    let expected = Reply {
        text: Some("[1, 0] \u{e9}\n".into()),
        prompt_tokens: 10,
        completion_tokens: 3,
    };
    assert_eq!(reply, expected);
    let [seen] = &stub.seen()[..] else {
        panic!("not one request");
    };
    assert_eq!(seen.path, "/v1/chat/completions");
    assert_eq!(seen.authorization, Some(format!("Bearer {KEY}")));
    let expected = serde_json::json!({
        "model": "judge-1",
        "messages": [
            {"role": "system", "content": "Judge."},
            {"role": "user", "content": "\"Is it?\"\n"},
        ],
        "temperature": 0.0,
        "max_tokens": 500,
    });
    assert_eq!(seen.body, expected);
}

#[test]
fn the_address_may_be_a_base_or_whole() {
    for (url, expected) in [
        ("http://h/v1", "http://h/v1/chat/completions"),
        ("http://h/v1/", "http://h/v1/chat/completions"),
        ("https://h:1", "https://h:1/chat/completions"),
        (
            " http://h/v1/chat/completions\n",
            "http://h/v1/chat/completions",
        ),
        (
            "http://h/a/chat/completions/?v=1",
            "http://h/a/chat/completions?v=1",
        ),
        ("http://[::1]:80/v1", "http://[::1]:80/v1/chat/completions"),
    ] {
        assert_eq!(address(url).unwrap().0.to_string(), expected, "{url}");
    }
    for wrong in [
        "",
        "h/v1",
        "localhost:8000",
        "ftp://h/v1",
        "file:///etc/passwd",
        "http:///v1",
        "https://ada:secret@h/v1",
        "https://h h/v1",
    ] {
        let error = Endpoint::with_key(config(wrong), None).unwrap_err();
        assert!(error.to_string().starts_with("url: "), "{wrong}: {error}");
        assert!(!error.to_string().contains("secret"));
    }
}

#[test]
fn a_key_goes_unencrypted_to_this_machine_only() {
    let refused = |url: &str, key| Endpoint::with_key(config(url), key).is_err();
    for url in [
        "http://127.0.0.1:1/v1",
        "http://127.8.0.1/v1",
        "http://[::1]:8000/v1",
        "http://LocalHost/v1",
        "https://example.com/v1",
    ] {
        assert!(!refused(url, Some(KEY)), "{url}");
    }
    for url in [
        "http://example.com/v1",
        "http://10.0.0.1/v1",
        "http://0.0.0.0/v1",
        "http://localhost.example.com/v1",
        "http://127.0.0.1.example.com/v1",
        "http://127.0.0.1@example.com/v1",
        "http://[::ffff:10.0.0.1]/v1",
    ] {
        assert!(refused(url, Some(KEY)), "{url}");
    }
    assert!(!refused("http://10.0.0.1/v1", None));
    let allowed = EndpointConfig {
        allow_plain_http: true,
        ..config("http://10.0.0.1/v1")
    };
    assert!(Endpoint::with_key(allowed, Some(KEY)).is_ok());
}

#[test]
fn the_key_comes_from_the_variable_that_the_caller_names() {
    // Tests cannot set a variable safely; any that is set will do.
    let is_key = |value: &str| !value.is_empty() && value.bytes().all(|b| b.is_ascii_graphic());
    let (name, value) = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .find(|(_, value)| is_key(value))
        .expect("a variable such as PATH");
    let stub = Stub::new(|_| Action::reply("yes"));
    for variable in [Some(&*name), Some("LAPIDARY_NO_SUCH_VARIABLE"), None] {
        let config = EndpointConfig {
            key_variable: variable.map(str::to_owned),
            ..config(stub.url())
        };
        ask(&Endpoint::new(config).unwrap()).unwrap();
    }
    let sent: Vec<_> = stub.seen().into_iter().map(|s| s.authorization).collect();
    assert_eq!(sent, [Some(format!("Bearer {value}")), None, None]);
    let default = EndpointConfig::new("https://h", "m").key_variable;
    assert_eq!(default.as_deref(), Some("OPENAI_API_KEY"));
}

#[test]
fn the_key_is_in_no_error_and_in_no_debug_output() {
    let echo = format!("Bad key {KEY}, Bearer {KEY}. sk-do-\\u0000not-tell-0123456789");
    for (status, form) in [
        (401, "{\"error\": {\"message\": \"MESSAGE\"}}"),
        (500, "{\"error\": \"MESSAGE\"}"),
        (403, "MESSAGE"),
        (400, "{\"odd\": [\"MESSAGE\"]}"),
    ] {
        let body = form.replace("MESSAGE", &echo);
        let stub = Stub::new(move |_| answer(status, &body));
        let endpoint = endpoint(&stub);
        let error = endpoint.complete(&messages(), &|| false).unwrap_err();
        for text in [
            error.to_string(),
            format!("{error:?}"),
            format!("{endpoint:?}"),
        ] {
            assert!(!text.contains("do-not-tell"), "{status}: {text}");
        }
        assert!(error.to_string().contains("Bad key [key]"), "{error}");
        let sent = &stub.seen()[0].authorization;
        assert_eq!(sent, &Some(format!("Bearer {KEY}")));
    }
    let split = format!("{KEY}\n{KEY}");
    let error = Endpoint::with_key(config("https://h"), Some(&split)).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("tell"), "{error}");
}

#[test]
fn statuses_of_the_moment_are_tried_again_and_then_reported() {
    for status in [408, 429, 500, 502, 503, 504] {
        let stub = Stub::new(move |seen| match seen.index {
            0 | 1 => Action::Answer(status, "Retry-After: 0\r\n", "busy".into()),
            _ => Action::reply("yes"),
        });
        let reply = ask(&endpoint(&stub)).unwrap();
        assert_eq!(reply.text.as_deref(), Some("yes"), "{status}");
        assert_eq!(reply.prompt_tokens, 10);
        assert_eq!(stub.seen().len(), 3);

        let stub = Stub::new(move |_| answer(status, "{\"error\": \"come back later\"}"));
        let error = ask(&endpoint(&stub)).unwrap_err();
        assert!(error.contains(&status.to_string()), "{error}");
        assert!(error.contains("come back later"), "{error}");
        assert_eq!(stub.seen().len(), 3, "{status}");
    }
}

#[test]
fn other_statuses_end_at_once_with_the_message_of_the_server() {
    for status in [400, 401, 403, 404, 422] {
        let message = format!("the \u{7} reason {}", "é".repeat(5000));
        let stub = Stub::new(move |_| answer(status, &message));
        let error = ask(&endpoint(&stub)).unwrap_err();
        assert_eq!(stub.seen().len(), 1, "{status}");
        assert!(error.contains(&format!("status {status} from http://127.0.0.1:")));
        assert!(error.contains("the  reason éé"), "{error}");
        assert!(!error.contains(char::is_control));
        let message = error.split('"').nth(1).unwrap();
        assert_eq!(message.chars().count(), 300);
    }
}

#[test]
fn a_redirect_is_not_followed() {
    let other = Stub::new(|_| Action::reply("yes"));
    let location: &'static str = format!("Location: {}\r\n", other.url()).leak();
    for status in [301, 302, 303, 307, 308] {
        let stub = Stub::new(move |_| Action::Answer(status, location, vec![]));
        let error = ask(&endpoint(&stub)).unwrap_err();
        assert!(error.contains("does not redirect"), "{error}");
    }
    assert_eq!(other.seen(), []);
}

#[test]
fn a_wait_that_the_server_names_replaces_the_usual_one() {
    let stub = Stub::new(|seen| match seen.index {
        0 => Action::Answer(429, "Retry-After: 1\r\n", vec![]),
        1 => {
            let past = "Retry-After: Sun, 06 Nov 1994 08:49:37 GMT\r\n";
            Action::Answer(503, past, vec![])
        }
        _ => Action::reply("yes"),
    });
    let config = EndpointConfig {
        first_wait: Duration::from_secs(20),
        ..config(stub.url())
    };
    let endpoint = Endpoint::with_key(config, None).unwrap();
    let start = Instant::now();
    ask(&endpoint).unwrap();
    let took = start.elapsed();
    assert!((1.0..3.0).contains(&took.as_secs_f64()), "{took:?}");
}

#[test]
fn a_wait_of_more_than_an_hour_is_an_error() {
    let stub = Stub::new(|_| Action::Answer(429, "Retry-After: 7200\r\n", "quota".into()));
    let error = ask(&endpoint(&stub)).unwrap_err();
    assert!(error.contains("again in 7200 s"), "{error}");
    assert_eq!(stub.seen().len(), 1);
}

#[test]
fn waits_double() {
    let stub = Stub::new(|_| answer(500, ""));
    let config = EndpointConfig {
        first_wait: Duration::from_millis(50),
        retries: 3,
        ..config(stub.url())
    };
    let endpoint = Endpoint::with_key(config, None).unwrap();
    let start = Instant::now();
    ask(&endpoint).unwrap_err();
    let took = start.elapsed().as_millis(); // 50 + 100 + 200
    assert!((350..2000).contains(&took), "{took} ms");
}

#[test]
fn replies_without_text_are_malformed_after_the_retries() {
    let long = format!("\"{}\"", "x".repeat(exchange::MAX_ANSWER_BYTES));
    for body in [
        "<html>hello</html>",
        "",
        "{\"choices\": []}",
        "{\"choices\": [{\"message\": {\"content\": null}}]}",
        &long,
    ] {
        let owned = body.to_owned();
        let stub = Stub::new(move |_| answer(200, &owned));
        let reply = ask(&endpoint(&stub)).unwrap();
        assert_eq!(reply.text, None);
        assert_eq!(stub.seen().len(), 3);
    }
    let stub = Stub::new(|seen| match seen.index {
        0 => answer(200, "{\"usage\": {\"prompt_tokens\": 5}}"),
        _ => Action::reply("yes"),
    });
    let reply = ask(&endpoint(&stub)).unwrap();
    assert_eq!(reply.text.as_deref(), Some("yes"));
    // The malformed one was paid for, too.
    assert_eq!((reply.prompt_tokens, reply.completion_tokens), (15, 3));
}

#[test]
fn an_answer_of_a_mebibyte_is_read_and_a_longer_one_is_not() {
    for (extra, is_read) in [(0, true), (1, false)] {
        let head = "{\"choices\": [{\"message\": {\"content\": \"";
        let tail = "\"}}]}";
        let fill = exchange::MAX_ANSWER_BYTES - head.len() - tail.len() + extra;
        let body = format!("{head}{}{tail}", "x".repeat(fill));
        let stub = Stub::new(move |_| answer(200, &body));
        let config = EndpointConfig {
            retries: 0,
            ..config(stub.url())
        };
        let endpoint = Endpoint::with_key(config, None).unwrap();
        assert_eq!(ask(&endpoint).unwrap().text.is_some(), is_read);
    }
}

#[test]
fn connections_that_fail_are_tried_again_and_then_reported() {
    for (failing, timeout) in [
        ((|| Action::Close) as fn() -> Action, 5000),
        (|| Action::CloseInBody, 5000),
        (|| Action::Silence, 300),
    ] {
        let stub = Stub::new(move |seen| match seen.index {
            0 | 1 => failing(),
            _ => Action::reply("yes"),
        });
        let config = EndpointConfig {
            timeout: Duration::from_millis(timeout),
            ..config(stub.url())
        };
        let once = EndpointConfig {
            retries: 1,
            ..config.clone()
        };
        let error = ask(&Endpoint::with_key(once, Some(KEY)).unwrap()).unwrap_err();
        assert!(
            error.contains("no answer from http://127.0.0.1:"),
            "{error}"
        );
        assert_eq!(error.contains("within 300ms"), timeout == 300, "{error}");
        assert_eq!(stub.seen().len(), 2);

        let stub = Stub::new(move |seen| match seen.index {
            0 | 1 => failing(),
            _ => Action::reply("yes"),
        });
        let config = EndpointConfig {
            url: stub.url(),
            ..config
        };
        let reply = ask(&Endpoint::with_key(config, Some(KEY)).unwrap()).unwrap();
        assert_eq!(reply.text.as_deref(), Some("yes"));
    }
    let gone = Stub::new(|_| Action::Close).url();
    let error = ask(&Endpoint::with_key(config(gone), Some(KEY)).unwrap()).unwrap_err();
    assert!(error.contains("no answer"), "{error}");
}

#[test]
fn every_wait_can_be_stopped() {
    let silent = Stub::new(|_| Action::Silence);
    let busy = Stub::new(|_| answer(503, ""));
    let pausing = Stub::new(|_| Action::Answer(429, "Retry-After: 60\r\n", vec![]));
    let limited = Stub::new(|_| Action::reply("yes"));
    for (stub, limit) in [
        (&silent, None),
        (&busy, None),
        (&pausing, None),
        (&limited, Some(1)),
    ] {
        let config = EndpointConfig {
            timeout: Duration::from_secs(60),
            first_wait: Duration::from_secs(60),
            max_requests_per_minute: limit,
            ..config(stub.url())
        };
        let endpoint = Endpoint::with_key(config, None).unwrap();
        if limit.is_some() {
            ask(&endpoint).unwrap();
        }
        let start = Instant::now();
        let times = AtomicUsize::new(0);
        let stop = || {
            times.fetch_add(1, Ordering::Relaxed);
            start.elapsed() > Duration::from_millis(250)
        };
        assert_eq!(endpoint.complete(&messages(), &stop).unwrap(), None);
        let took = start.elapsed();
        assert!((250..1500).contains(&took.as_millis()), "{took:?}");
        assert!(times.into_inner() >= 3);
    }
    // The connection was given up, so no thread waits for it any more.
    let start = Instant::now();
    while silent.busy() > 0 {
        assert!(start.elapsed() < Duration::from_secs(2));
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_job_that_has_stopped_sends_nothing() {
    let stub = Stub::new(|_| Action::reply("yes"));
    let reply = endpoint(&stub).complete(&messages(), &|| true).unwrap();
    assert_eq!(reply, None);
    assert_eq!(stub.seen(), []);
}

#[test]
fn a_digest_depends_on_all_that_is_sent_but_the_key() {
    let digest = |config: EndpointConfig, key, messages: &[Message]| {
        Endpoint::with_key(config, key).unwrap().digest(messages)
    };
    let base = || config("https://h/v1");
    let expected = digest(base(), None, &messages());
    assert_eq!(digest(base(), Some(KEY), &messages()), expected);
    let whole = config("https://h/v1/chat/completions");
    assert_eq!(digest(whole, None, &messages()), expected);
    let mut others = vec![
        digest(base(), None, &messages()[..1]),
        digest(config("https://g/v1"), None, &messages()),
    ];
    for change in [
        (|c| c.model = "judge-2".into()) as fn(&mut EndpointConfig),
        |c| c.temperature = 0.5,
        |c| c.max_tokens = 501,
    ] {
        let mut config = base();
        change(&mut config);
        others.push(digest(config, None, &messages()));
    }
    others.push(expected);
    others.sort();
    others.dedup();
    assert_eq!(others.len(), 6);
}

#[test]
fn figures_out_of_range_are_refused() {
    for change in [
        (|c| c.timeout = Duration::ZERO) as fn(&mut EndpointConfig),
        |c| c.timeout = Duration::MAX,
        |c| c.max_requests_per_minute = Some(0),
        |c| c.max_tokens = 0,
        |c| c.temperature = f64::NAN,
        |c| c.temperature = -1.0,
    ] {
        let mut config = config("https://h/v1");
        change(&mut config);
        assert!(Endpoint::new(config).is_err());
    }
}
