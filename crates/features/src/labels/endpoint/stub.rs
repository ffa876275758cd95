//! A server for tests that answers as a test wants and remembers what it was asked. It ends with
//! the test, threads and all.

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A request as the server saw it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Seen {
    /// How many requests there were before it.
    pub(crate) index: usize,
    pub(crate) path: String,
    pub(crate) authorization: Option<String>,
    pub(crate) body: Value,
}

impl Seen {
    /// The content of the message at `index`.
    pub(crate) fn content(&self, index: usize) -> &str {
        self.body["messages"][index]["content"].as_str().unwrap()
    }

    /// The content of the last message.
    pub(crate) fn question(&self) -> &str {
        self.content(self.body["messages"].as_array().unwrap().len() - 1)
    }
}

/// What the server does with a request.
pub(crate) enum Action {
    /// Answers with a status, headers (whole lines) and a body.
    Answer(u16, &'static str, Vec<u8>),
    /// Closes the connection.
    Close,
    /// Closes the connection in the middle of the body.
    CloseInBody,
    /// Says nothing until the other side gives up.
    Silence,
}

impl Action {
    /// A completion, with 10 tokens read and 3 written.
    pub(crate) fn reply(text: &str) -> Action {
        let body = json!({
            "choices": [{"message": {"role": "assistant", "content": text}}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 3},
        });
        Action::Answer(200, "", body.to_string().into())
    }
}

type Answers = dyn Fn(&Seen) -> Action + Send + Sync;

struct Shared {
    answers: Box<Answers>,
    seen: Mutex<Vec<Seen>>,
    ends: AtomicBool,
    busy: AtomicUsize,
    busiest: AtomicUsize,
}

pub(crate) struct Stub {
    address: SocketAddr,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Stub {
    pub(crate) fn new(answers: impl Fn(&Seen) -> Action + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            answers: Box::new(answers),
            seen: Mutex::default(),
            ends: AtomicBool::new(false),
            busy: AtomicUsize::new(0),
            busiest: AtomicUsize::new(0),
        });
        let of_thread = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            let shared = &*of_thread;
            thread::scope(|scope| {
                for stream in listener.incoming() {
                    if shared.ends.load(Ordering::SeqCst) {
                        break;
                    }
                    // The other side may have gone away in the middle.
                    scope.spawn(move || drop(serve(stream.unwrap(), shared)));
                }
            });
        });
        Stub {
            address,
            shared,
            thread: Some(thread),
        }
    }

    /// The address of its API.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// Most requests that were open at the same time.
    pub(crate) fn busiest(&self) -> usize {
        self.shared.busiest.load(Ordering::SeqCst)
    }

    /// Requests that are open now.
    pub(crate) fn busy(&self) -> usize {
        self.shared.busy.load(Ordering::SeqCst)
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::SeqCst);
        // Wakes the thread that waits for connections.
        drop(TcpStream::connect(self.address));
        let ended = self.thread.take().unwrap().join();
        if !thread::panicking() {
            ended.unwrap();
        }
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut reader = BufReader::new(&stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or_default().to_owned();
    let (mut len, mut authorization) = (0, None);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let Some((name, value)) = line.trim_end().split_once(": ") else {
            break;
        };
        match &*name.to_lowercase() {
            "content-length" => len = value.parse().unwrap(),
            "authorization" => authorization = Some(value.to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; len];
    reader.read_exact(&mut body)?;
    let busy = 1 + shared.busy.fetch_add(1, Ordering::SeqCst);
    shared.busiest.fetch_max(busy, Ordering::SeqCst);
    let seen = {
        let mut all = shared.seen.lock().unwrap();
        let seen = Seen {
            index: all.len(),
            path,
            authorization,
            body: serde_json::from_slice(&body).unwrap_or_default(),
        };
        all.push(seen.clone());
        seen
    };
    let action = (shared.answers)(&seen);
    // Before the answer: once it is out, the next request may come.
    if !matches!(action, Action::Silence) {
        shared.busy.fetch_sub(1, Ordering::SeqCst);
        return act(action, &stream, shared);
    }
    let done = act(action, &stream, shared);
    shared.busy.fetch_sub(1, Ordering::SeqCst);
    done
}

fn act(action: Action, mut stream: &TcpStream, shared: &Shared) -> std::io::Result<()> {
    match action {
        Action::Answer(status, headers, body) => {
            let len = body.len();
            let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {len}\r\n{headers}\r\n");
            stream.write_all(&[head.as_bytes(), &body].concat())
        }
        Action::Close => Ok(()),
        Action::CloseInBody => stream.write_all(b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n{"),
        Action::Silence => {
            stream.set_read_timeout(Some(Duration::from_millis(20)))?;
            // Nothing is read before the connection ends.
            while matches!(stream.read(&mut [0]), Err(e) if is_timeout(&e)) {
                if shared.ends.load(Ordering::SeqCst) {
                    break;
                }
            }
            Ok(())
        }
    }
}

fn is_timeout(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{TimedOut, WouldBlock};
    matches!(error.kind(), TimedOut | WouldBlock)
}
