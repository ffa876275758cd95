//! Dictionaries on the Hugging Face hub: `hf:OWNER/NAME[@REVISION][/PATH]`, a repository with a
//! folder of it or a file.

use std::path::{Path, PathBuf};

use lapidary_coder::CoderError;
use lapidary_model::{CachedRepository, HubRepository};

use crate::error::FormatError;
use crate::sample::SAMPLE;

/// Before an address.
const SCHEME: &str = "hf:";
/// Weights that a folder has one of.
const WEIGHTS: [&str; 7] = [
    "sae_weights.safetensors",
    "sae.safetensors",
    "ae.pt",
    "params.npz",
    "params.safetensors",
    "checkpoints/final.safetensors",
    "quantized_weights.safetensors",
];
/// What is said beside weights, or a folder above.
const BESIDE: [&str; 5] = [
    "cfg.json",
    "config.json",
    "config.yaml",
    "hyperparams.json",
    SAMPLE,
];

/// Where the dictionary that `path` names lies on this machine.
///
/// That is the path itself, but for two kinds: the files of an address on the hub are fetched into
/// the hub's cache, those that one dictionary needs and no more; and a folder of that cache
/// (`models--owner--name`, or a path below it as in the repository) is its snapshot.
///
/// # Errors
/// When the hub or the cache does not have it, or there are several.
pub fn local(path: &Path) -> Result<PathBuf, FormatError> {
    let text = path.to_string_lossy();
    match text.strip_prefix(SCHEME) {
        Some(address) => fetch(address.trim_start_matches('/')),
        None => cached(path),
    }
}

/// A path in a folder of the hub's cache as one in its snapshot; any other path as it is.
pub(crate) fn cached(path: &Path) -> Result<PathBuf, FormatError> {
    for folder in path.ancestors() {
        if folder != path && path.exists() {
            break;
        }
        // The last ancestor of a relative path is empty, which stands for the current folder.
        let named = match folder.as_os_str().is_empty() {
            true => Path::new("."),
            false => folder,
        };
        if let Some(found) = CachedRepository::at(named).map_err(FormatError::from)? {
            let within = path.strip_prefix(folder).unwrap_or(Path::new(""));
            return Ok(found.snapshot.join(within));
        }
    }
    Ok(path.to_path_buf())
}

fn fetch(address: &str) -> Result<PathBuf, FormatError> {
    let (name, revision, within) = parse(address);
    let repository = HubRepository::model(&name, revision).map_err(FormatError::from)?;
    let files = repository.files();
    let has = |file: &str| files.iter().any(|f| f == file);
    let whole = has(within);
    let folder = match whole {
        true => within.rsplit_once('/').map_or("", |(folder, _)| folder),
        false => within,
    };
    let wrong = |found: String, expected: &str| {
        let place = Path::new(SCHEME).join(address);
        CoderError::format(&place, "files", found, expected)
    };
    let weights = match whole {
        true => vec![within.to_owned()],
        false => {
            let known = WEIGHTS.iter().map(|w| joined(folder, w));
            let known: Vec<String> = known.filter(|w| has(w)).collect();
            match known.is_empty() {
                false => known,
                true if !layers(files, folder).is_empty() => layers(files, folder),
                true => only(files, folder).map_err(|found| {
                    wrong(
                        found,
                        "the weights of one dictionary: name its folder or file",
                    )
                })?,
            }
        }
    };
    let above = folder.rsplit_once('/').map_or("", |(above, _)| above);
    for place in [folder, above] {
        for file in BESIDE.iter().map(|b| joined(place, b)).filter(|f| has(f)) {
            repository.fetch(&file).map_err(FormatError::from)?;
        }
    }
    let mut local = PathBuf::new();
    for file in &weights {
        local = repository.fetch(file).map_err(FormatError::from)?;
    }
    if whole {
        return Ok(local);
    }
    // As many folders up as the last file lies deep in its own.
    let last = weights.last().map_or("", String::as_str);
    let depth = last[folder.len()..]
        .trim_start_matches('/')
        .split('/')
        .count();
    let up = local.ancestors().nth(depth);
    Ok(up.map_or(local.clone(), Path::to_path_buf))
}

/// `OWNER/NAME`, the revision, and the path within.
fn parse(address: &str) -> (String, Option<&str>, &str) {
    let mut parts = address.splitn(3, '/');
    let (owner, name) = (parts.next().unwrap_or(""), parts.next());
    let within = parts.next().unwrap_or("").trim_end_matches('/');
    let Some(name) = name else {
        return (owner.to_owned(), None, "");
    };
    match name.split_once('@') {
        Some((name, revision)) => (format!("{owner}/{name}"), Some(revision), within),
        None => (format!("{owner}/{name}"), None, within),
    }
}

fn joined(folder: &str, name: &str) -> String {
    match folder.is_empty() {
        true => name.to_owned(),
        false => format!("{folder}/{name}"),
    }
}

/// The files of a cross-layer transcoder of circuit-tracer's in a folder, two a layer; none if
/// there is none.
fn layers(files: &[String], folder: &str) -> Vec<String> {
    let prefix = joined(folder, "W_");
    let of_layer = |file: &&String| {
        let rest = file.strip_prefix(&prefix);
        let rest = rest.and_then(|rest| rest.strip_suffix(".safetensors"));
        let number = rest.and_then(|rest| rest.strip_prefix("enc_").or(rest.strip_prefix("dec_")));
        number.is_some_and(|n| n.parse::<usize>().is_ok())
    };
    files.iter().filter(of_layer).cloned().collect()
}

/// The only file of weights in a folder, or what lies there instead.
fn only(files: &[String], folder: &str) -> Result<Vec<String>, String> {
    let inside = |file: &&String| {
        let rest = match folder.is_empty() {
            true => Some(file.as_str()),
            false => file.strip_prefix(folder).and_then(|r| r.strip_prefix('/')),
        };
        rest.is_some_and(|rest| !rest.contains('/'))
    };
    let weights = files.iter().filter(inside).filter(|file| {
        let ending = [".safetensors", ".pt", ".npz"];
        ending.iter().any(|e| file.ends_with(e)) && !file.ends_with(SAMPLE)
    });
    let weights: Vec<String> = weights.cloned().collect();
    match weights.len() {
        1 => Ok(weights),
        0 => Err("none of weights".into()),
        n => Err(format!("{n} of weights, {} among them", weights[0])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_name_repository_revision_and_path() {
        let of = |address| {
            let (name, revision, within) = parse(address);
            (name, revision.map(str::to_owned), within.to_owned())
        };
        assert_eq!(of("a/b"), ("a/b".into(), None, String::new()));
        assert_eq!(
            of("a/b@v2/x/y.pt"),
            ("a/b".into(), Some("v2".into()), "x/y.pt".into())
        );
        assert_eq!(of("a/b/layers.3/"), ("a/b".into(), None, "layers.3".into()));
        assert_eq!(of("a"), ("a".into(), None, String::new()));
    }

    #[test]
    fn a_folder_of_the_cache_is_its_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("models--a--b");
        let snapshot = repository.join("snapshots/c0ffee");
        std::fs::create_dir_all(snapshot.join("layer_3")).unwrap();
        let place = |path: &str| local(&dir.path().join(path)).map_err(|e| e.to_string());
        assert_eq!(place("models--a--b"), Ok(snapshot.clone()));
        assert_eq!(place("models--a--b/layer_3"), Ok(snapshot.join("layer_3")));
        assert_eq!(place("models--a--b/snapshots/c0ffee"), Ok(snapshot.clone()));
        assert_eq!(place("other"), Ok(dir.path().join("other")));
        // Relative paths end in an empty ancestor.
        for absent in ["no-such-place", "no-such-place/dictionary", ""] {
            assert_eq!(local(Path::new(absent)).unwrap(), Path::new(absent));
        }
        std::fs::create_dir(repository.join("snapshots/beef")).unwrap();
        let error = place("models--a--b").unwrap_err();
        assert!(
            error.contains("found 2 and no refs/main, [beef, c0ffee]"),
            "{error}"
        );
        std::fs::create_dir(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "beef").unwrap();
        assert_eq!(place("models--a--b"), Ok(repository.join("snapshots/beef")));
        std::fs::write(repository.join("refs/main"), "../../..").unwrap();
        let error = place("models--a--b").unwrap_err();
        assert!(
            error.contains("refs/main: field `commit`: found \"../../..\""),
            "{error}"
        );
    }

    #[test]
    fn a_folder_of_several_weights_is_no_dictionary() {
        let files = [
            "layer_0.safetensors",
            "layer_1.safetensors",
            "x/only.pt",
            "x/y/other.pt",
        ];
        let files: Vec<String> = files.map(str::to_owned).into();
        assert_eq!(only(&files, "x"), Ok(vec!["x/only.pt".to_owned()]));
        assert_eq!(
            only(&files, "").unwrap_err(),
            "2 of weights, layer_0.safetensors among them"
        );
        assert_eq!(only(&files, "z").unwrap_err(), "none of weights");
    }

    #[test]
    fn a_cross_layer_transcoder_is_all_files_of_its_layers() {
        let files = [
            "W_enc_0.safetensors",
            "clt/W_dec_0.safetensors",
            "clt/W_enc_0.safetensors",
            "clt/W_enc_10.safetensors",
            "clt/W_enc_x.safetensors",
            "clt/more/W_enc_1.safetensors",
        ];
        let files: Vec<String> = files.map(str::to_owned).into();
        assert_eq!(layers(&files, "clt"), files[1..4]);
        assert_eq!(layers(&files, ""), files[..1]);
        assert!(layers(&files, "other").is_empty());
    }
}
