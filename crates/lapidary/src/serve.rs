//! A local web page over the feature tables of a dictionary, and over the model behind it.
//!
//! The server only reads. It answers a fixed list of paths, none of which names a file. A web page
//! of somebody else, open in the same browser, gets nothing: see [`origin`].

mod answers;
mod origin;
mod requests;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use burn::tensor::Device;
use lapidary_activations::OtherModel;
use lapidary_coder::Dictionary;
use lapidary_features::serve::{FeatureIndex, Page, page};
use lapidary_formats::saelens;
use tiny_http::{Header, Request, Response, StatusCode};

use crate::error::{Context, Error, Result, bail};
use crate::label_table::labels_of_run;
use crate::opened::{DictionaryOptions, Opened, open_dictionary};
use crate::progress::Progress;
use crate::report::figures;
use crate::run_folder::RunFolder;
use answers::Answer;
use origin::Origins;

/// Requests that are answered at the same time; more get the status 503.
const MOST_AT_ONCE: usize = 64;

/// What is served, beside the folder.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServeOptions<'a> {
    /// What the dictionary's files may leave open.
    pub dictionary: DictionaryOptions,
    /// The model, in place of the one that the dictionary names.
    pub model: Option<&'a str>,
}

/// A server of one dictionary.
pub struct Server {
    http: tiny_http::Server,
    address: SocketAddr,
    served: Arc<Served>,
    stopped: AtomicBool,
    at_once: Arc<AtomicUsize>,
}

/// What all requests share.
struct Served {
    origins: Origins,
    page: Page,
    index: FeatureIndex,
    metrics: Vec<(String, f64, String)>,
    /// The model with the dictionary, or why there is none. It answers one request at a time.
    model: Result<Mutex<WithModel>, String>,
}

/// A dictionary with all models that it needs.
struct WithModel {
    opened: Opened,
    second: Option<OtherModel>,
}

impl Server {
    /// Reads the tables in the folder `path`, and its dictionary and model if they are there.
    /// `listener` decides the address; nothing is answered before [`Server::run`].
    ///
    /// # Errors
    /// There are no tables, they are damaged, or the listener cannot be used.
    pub fn open(
        path: &Path,
        listener: TcpListener,
        options: ServeOptions<'_>,
        device: &Device,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let folder = RunFolder::new(path);
        let tables = folder.features();
        if !tables.join("features.parquet").is_file() {
            bail!(
                "{}: found no features/features.parquet, which `lapidary features` writes",
                path.display()
            );
        }
        let index = FeatureIndex::open(&tables, labels_of_run(&folder, progress)?)?;
        if !index.has_nearest() {
            progress.say(
                "note",
                "similar decoder rows are left out: the tables were written by an earlier version; `lapidary features` writes them again",
            );
        }
        let metrics = folder.read_metrics()?.as_ref().map(figures);
        let dictionary =
            match saelens::exists(&folder.dictionary()) || lapidary_formats::exists(path) {
                true => open_dictionary(path, options.dictionary, device),
                false => Err(Error::Invalid("the folder has no dictionary".into())),
            };
        let model = dictionary
            .and_then(|dictionary| with_model(dictionary, path, options.model, device, progress));
        let model = model.map(Mutex::new).map_err(|error| in_words(&error));
        if let Err(problem) = &model {
            progress.say(
                "note",
                &format!("texts and steering are left out: {problem}"),
            );
        }
        let address = listener.local_addr()?;
        let http = tiny_http::Server::from_listener(listener, None)
            .map_err(|error| Error::Invalid(format!("{address}: {error}")))?;
        Ok(Self {
            http,
            address,
            served: Arc::new(Served {
                origins: Origins::new(address),
                page: page(),
                index,
                metrics: metrics.unwrap_or_default(),
                model,
            }),
            stopped: AtomicBool::new(false),
            at_once: Arc::default(),
        })
    }

    /// The address to open in a browser.
    pub fn address(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Answers requests until [`Server::stop`] is called.
    ///
    /// # Errors
    /// The address can no longer be listened on.
    pub fn run(&self) -> Result<()> {
        let served = Arc::clone(&self.served);
        thread::spawn(move || served.index.read_context_texts());
        loop {
            let request = match self.http.recv() {
                Ok(request) => request,
                Err(_) if self.stopped.load(Ordering::SeqCst) => return Ok(()),
                Err(error) => {
                    return Err(Error::from(error)).with_context(|| self.address());
                }
            };
            let place = Place::take(&self.at_once);
            let served = Arc::clone(&self.served);
            let answering = thread::Builder::new().spawn(move || {
                served.answer(request, place.is_some());
                drop(place);
            });
            // A request that got no thread is dropped, which answers it with the status 500.
            drop(answering);
        }
    }

    /// Makes [`Server::run`] return. Requests that are being answered are not waited for.
    pub fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.http.unblock();
    }
}

/// One of the places for requests that are answered at the same time.
struct Place(Arc<AtomicUsize>);

impl Place {
    fn take(taken: &Arc<AtomicUsize>) -> Option<Self> {
        let place = Self(Arc::clone(taken));
        (taken.fetch_add(1, Ordering::SeqCst) < MOST_AT_ONCE).then_some(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Served {
    fn answer(&self, mut request: Request, has_place: bool) {
        let answer = match has_place {
            true => self.answer_to(&mut request),
            false => Answer::refusal(503, "too many requests at once"),
        };
        let mut headers = vec![
            ("Content-Type", answer.kind),
            ("Content-Security-Policy", &*self.page.policy),
            ("X-Content-Type-Options", "nosniff"),
            ("Referrer-Policy", "no-referrer"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cache-Control", "no-store"),
        ];
        if let Some(allowed) = answer.allowed {
            headers.push(("Allow", allowed));
        }
        let mut response =
            Response::from_data(answer.body).with_status_code(StatusCode(answer.status));
        let headers = headers
            .iter()
            .filter_map(|(name, value)| Header::from_bytes(*name, *value).ok());
        headers.for_each(|header| response.add_header(header));
        // Whoever asked may have gone.
        let _ = request.respond(response);
    }
}

fn with_model(
    dictionary: Dictionary,
    path: &Path,
    model: Option<&str>,
    device: &Device,
    progress: &dyn Progress,
) -> Result<WithModel> {
    let opened = Opened::with_dictionary(dictionary, path, model, device, progress)?;
    let second = opened.second()?;
    opened.reader(second.as_ref())?;
    Ok(WithModel { opened, second })
}

/// An error with its causes, each of which is named once.
fn in_words(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        let words = error.to_string();
        if !text.contains(&words) {
            text = format!("{text}: {words}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests;
