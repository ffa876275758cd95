//! Good files of every kind, as the first inputs of the targets.

use crate::folders::{
    CONFIGURED, checkpoint, configured, fixture, folder, old_checkpoint, store, tables,
};
use crate::readers::{ARROW, CHECKPOINT, CORPORA, MODELS, RECIPES, STORE, TABLES};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// Writes `corpus/TARGET/NAME` below `root` for all targets.
pub fn write(root: &Path) {
    let seeds = Seeds(root.join("corpus"));
    for entry in fs::read_dir(fixture("models")).expect("fixtures") {
        let model = entry.expect("an entry").path();
        let name = model
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        seeds.file("config", None, &name, &model.join("config.json"));
        seeds.file("json", None, &name, &model.join("config.json"));
        for part in fs::read_dir(&model).expect("a model") {
            let path = part.expect("an entry").path();
            let file = path
                .file_name()
                .expect("a name")
                .to_string_lossy()
                .into_owned();
            if file.starts_with("model") && file.ends_with(".safetensors") {
                seeds.file("safetensors", None, &format!("{name}-{file}"), &path);
            }
        }
    }
    for (number, model) in MODELS.iter().enumerate() {
        let path = fixture("models").join(model).join("config.json");
        seeds.file("model_config", Some(number), model, &path);
    }
    let sharded = fixture("models/gpt2-sharded/model.safetensors.index.json");
    seeds.file("index", None, "gpt2", &sharded);
    let embedded = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/model/embedded");
    seeds.file(
        "tokenizer",
        None,
        "embedded",
        &embedded.join("tokenizer.json"),
    );
    for (name, json) in TOKENIZERS {
        seeds.bytes("tokenizer", None, name, json.as_bytes());
    }
    for entry in fs::read_dir(fixture("gguf")).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        if name.ends_with(".gguf") {
            seeds.file("gguf", None, &name, &path);
        }
    }
    let of_store = folder("store", store);
    for (number, name) in STORE.iter().enumerate() {
        seeds.file("store", Some(number), name, &of_store.join(name));
    }
    for (number, name) in ARROW.iter().enumerate() {
        let path = fixture("saelens_cache/float32").join(name);
        seeds.file("arrow", Some(number), name, &path);
        let path = fixture("saelens_cache/float16").join(name);
        seeds.file("arrow", Some(number), &format!("float16-{name}"), &path);
    }
    corpora(&seeds);
    let of_tables = folder("tables", tables);
    for (number, name) in TABLES.iter().enumerate() {
        seeds.file("table", Some(number), name, &of_tables.join(name));
    }
    let configs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs");
    for (number, kind) in RECIPES.iter().enumerate() {
        let below = if number == 0 {
            configs.clone()
        } else {
            configs.join(kind)
        };
        for entry in fs::read_dir(below).expect("recipes") {
            let path = entry.expect("an entry").path();
            if path.is_file() {
                let name = path
                    .file_name()
                    .expect("a name")
                    .to_string_lossy()
                    .into_owned();
                seeds.file("recipe", Some(number), &format!("{kind}-{name}"), &path);
            }
        }
    }
    let [sealed, old] = [
        folder("checkpoint", checkpoint),
        folder("checkpoint-2", old_checkpoint),
    ];
    for (number, name) in CHECKPOINT.iter().enumerate() {
        let flat = name.replace('/', "-");
        seeds.file("checkpoint", Some(2 * number), &flat, &sealed.join(name));
        let flat = format!("old-{flat}");
        seeds.file("checkpoint", Some(2 * number + 1), &flat, &old.join(name));
    }
    for entry in fs::read_dir(fixture("dictionaries")).expect("fixtures") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .expect("a name")
            .to_string_lossy()
            .into_owned();
        // Folders among them are for the targets that read folders.
        if path.is_file() {
            let kind = usize::from(name.ends_with(".npz"));
            seeds.file("dictionary", Some(kind), &name, &path);
        }
    }
    for (number, (format, name)) in CONFIGURED.iter().enumerate() {
        let path = folder(&format!("configured/{format}"), |path| {
            configured(format, path)
        });
        seeds.file("dictionary_config", Some(number), format, &path.join(name));
    }
    for (name, answer) in ANSWERS {
        seeds.bytes("hub", None, name, answer.as_bytes());
    }
    let python = r#"{"a": NaN, "b": [Infinity, -Infinity, -1e-3], "c": "\"NaN\\", "é": null}"#;
    seeds.bytes("json", None, "python", python.as_bytes());
}

/// Answers of a hub.
const ANSWERS: [(&str, &str); 5] = [
    (
        "listing",
        r#"{"sha": "0123abcd", "siblings": [{"rfilename": "config.json"}, {"rfilename": "a/b.safetensors"}]}"#,
    ),
    (
        "headers",
        "x-repo-commit:0123abcd\nx-linked-etag:\"00ff\"\nx-linked-size:123\netag:W/\"1-2\"\ncontent-range:bytes 5-9/10",
    ),
    ("redirect", "https://cdn.example:8080/a/b?c=d#e"),
    ("redirect-path", "/api/resolve-cache/a%20b"),
    ("redirect-relative", "?download=true"),
];

struct Seeds(PathBuf);

impl Seeds {
    fn bytes(&self, target: &str, choice: Option<usize>, name: &str, bytes: &[u8]) {
        let folder = self.0.join(target);
        fs::create_dir_all(&folder).expect("a folder");
        let first = choice.map(|number| u8::try_from(number).expect("few choices"));
        let seed: Vec<u8> = first.into_iter().chain(bytes.iter().copied()).collect();
        fs::write(folder.join(name), seed).expect("a seed");
    }

    fn file(&self, target: &str, choice: Option<usize>, name: &str, path: &Path) {
        let bytes = fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        self.bytes(target, choice, name, &bytes);
    }
}

/// Corpora in each of [`CORPORA`].
fn corpora(seeds: &Seeds) {
    let lines = "{\"text\": \"war and peace\", \"label\": \"a\"}\n\n{\"text\": null, \"label\": \"b\"}\n{\"label\": \"c\", \"text\": \"été\"}\n";
    let array = "[{\"text\": \"war\", \"label\": \"a\"}, {\"text\": \"peace\", \"label\": \"b\"}]";
    let text = "\u{feff}War and peace.\nA second line.\r\n\nétude\n";
    for (number, name) in CORPORA.iter().enumerate() {
        let mut parts = name.split('.').skip(1);
        let content = match parts.next() {
            Some("txt") => text,
            Some("jsonl") => lines,
            Some("json") => array,
            _ => continue, // Parquet, below
        };
        let packed = match parts.next() {
            Some("gz") => gzip(content.as_bytes()),
            Some("zst") => zstandard(content.as_bytes()),
            _ => content.as_bytes().to_vec(),
        };
        seeds.bytes("corpus", Some(number), name, &packed);
    }
    let number = CORPORA.iter().position(|name| *name == "a.parquet");
    let path = folder("tables", tables).join("texts.parquet");
    seeds.file("corpus", number, "texts.parquet", &path);
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(vec![], Compression::default());
    packed.write_all(bytes).expect("memory");
    packed.finish().expect("memory")
}

fn zstandard(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 3).expect("memory")
}

/// Tokenizers of other kinds than the embedded one, with a few tokens each.
const TOKENIZERS: [(&str, &str); 4] = [
    (
        "llama",
        r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[{"id":0,"content":"<unk>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"Sequence","normalizers":[{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]},"pre_tokenizer":null,"post_processor":null,"decoder":{"type":"Sequence","decoders":[{"type":"Replace","pattern":{"String":"▁"},"content":" "},{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]},"model":{"type":"BPE","dropout":null,"unk_token":"<unk>","continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,"ignore_merges":false,"vocab":{"<unk>":0,"<0x0A>":1,"▁":2,"a":3,"▁a":4,"r":5,"ar":6},"merges":[["▁","a"],["a","r"]]}}"#,
    ),
    (
        "unigram",
        r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,"pre_tokenizer":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},"post_processor":null,"decoder":{"type":"Metaspace","replacement":"▁","prepend_scheme":"always","split":true},"model":{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0.0],["▁",-1.0],["a",-2.0],["▁war",-3.5]],"byte_fallback":false}}"#,
    ),
    (
        "wordpiece",
        r###"{"version":"1.0","truncation":{"direction":"Right","max_length":4,"strategy":"LongestFirst","stride":0},"padding":{"strategy":{"Fixed":8},"direction":"Right","pad_to_multiple_of":null,"pad_id":0,"pad_type_id":0,"pad_token":"[PAD]"},"added_tokens":[{"id":0,"content":"[PAD]","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}],"normalizer":{"type":"BertNormalizer","clean_text":true,"handle_chinese_chars":true,"strip_accents":null,"lowercase":true},"pre_tokenizer":{"type":"BertPreTokenizer"},"post_processor":{"type":"TemplateProcessing","single":[{"Sequence":{"id":"A","type_id":0}}],"pair":[{"Sequence":{"id":"A","type_id":0}},{"Sequence":{"id":"B","type_id":1}}],"special_tokens":{}},"decoder":{"type":"WordPiece","prefix":"##","cleanup":true},"model":{"type":"WordPiece","unk_token":"[UNK]","continuing_subword_prefix":"##","max_input_chars_per_word":100,"vocab":{"[PAD]":0,"[UNK]":1,"war":2,"##s":3,"and":4}}}"###,
    ),
    (
        "wordlevel",
        r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":{"type":"NFKC"},"pre_tokenizer":{"type":"Split","pattern":{"Regex":"\\p{L}+|\\s"},"behavior":"Isolated","invert":false},"post_processor":null,"decoder":null,"model":{"type":"WordLevel","vocab":{"<unk>":0,"war":1},"unk_token":"<unk>"}}"#,
    ),
];
