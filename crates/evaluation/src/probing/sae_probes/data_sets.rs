//! The data sets of the Python package sae-probes (Kantamneni et al. 2025), read from the folder
//! where the package is installed.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use crate::error::EvaluationError;

/// File that lists the data sets.
const MASTER: &str = "probing_datasets_MASTER.csv.zst";

/// A file that unpacks to more bytes is refused.
const MOST_BYTES: u64 = 1 << 30;

/// What a data set's target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One of two classes. The package probes these data sets and no others.
    Binary,
    /// One of several classes.
    Multiclass,
    /// A number.
    Continuous,
}

/// A data set of the master list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataSet {
    /// File name without endings, for example `92_glue_sst2`: the package's `dataset`.
    pub name: String,
    /// What its target is.
    pub kind: Kind,
    file: PathBuf,
}

/// The master list.
#[derive(Clone, Debug)]
pub struct DataSets {
    all: Vec<DataSet>,
}

/// Rows of a data set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Samples {
    /// Texts. The activation of a text's last token is probed.
    pub prompts: Vec<String>,
    /// One target per text, as the file has it.
    pub targets: Vec<String>,
}

impl DataSets {
    /// Reads the master list. `folder` is the package's folder `sae_probes`, the folder that it is
    /// installed in, or its `data` folder.
    ///
    /// # Errors
    /// The folder holds no master list, or the list is damaged.
    pub fn open(folder: &Path) -> Result<Self, EvaluationError> {
        let below = ["", "data", "sae_probes/data"].map(|b| folder.join(b));
        let Some(data) = below.into_iter().find(|b| b.join(MASTER).is_file()) else {
            return Err(EvaluationError::input(
                "folder of sae-probes",
                format!("{} without {MASTER}", folder.display()),
                "the folder `sae_probes` of the installed package (pip install sae-probes)",
            ));
        };
        let [names, kinds] = read_columns(&data.join(MASTER), ["Dataset save name", "Data type"])?;
        let mut all = Vec::new();
        for (name, kind) in names.into_iter().zip(kinds) {
            // The list also holds notes about data that the package does not have.
            let kind = match kind.as_str() {
                "Binary Classification" => Kind::Binary,
                "Multiclass Classification" => Kind::Multiclass,
                "Continuous Data" => Kind::Continuous,
                _ => continue,
            };
            let file = name.rsplit('/').next().unwrap_or_default();
            let short = file.split('.').next().unwrap_or_default();
            if short.is_empty() || name.split('/').any(|part| part == "..") {
                return Err(EvaluationError::input(
                    "data set in the master list",
                    format!("the name {name:?}"),
                    "a file below the data folder, such as cleaned_data/92_glue_sst2.csv",
                ));
            }
            all.push(DataSet {
                name: short.to_string(),
                kind,
                file: data.join(format!("{name}.zst")),
            });
        }
        Ok(Self { all })
    }

    /// All 155 data sets, in the order of the master list.
    #[must_use]
    pub fn all(&self) -> &[DataSet] {
        &self.all
    }

    /// The 113 data sets with two classes, which the package probes.
    #[must_use]
    pub fn binary(&self) -> Vec<&DataSet> {
        self.all.iter().filter(|d| d.kind == Kind::Binary).collect()
    }

    /// The data set with this name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, name: &str) -> Result<&DataSet, EvaluationError> {
        self.all.iter().find(|d| d.name == name).ok_or_else(|| {
            let known: Vec<&str> = self.all.iter().map(|d| d.name.as_str()).collect();
            EvaluationError::input("name of a data set", name, format!("one of {known:?}"))
        })
    }
}

impl DataSet {
    /// Reads the prompts and the targets.
    ///
    /// # Errors
    /// The file is missing or damaged, or lacks a column or a value.
    pub fn read(&self) -> Result<Samples, EvaluationError> {
        let [prompts, targets] = read_columns(&self.file, ["prompt", "target"])?;
        for (row, (prompt, target)) in prompts.iter().zip(&targets).enumerate() {
            if prompt.is_empty() || target.is_empty() {
                let lacking = if prompt.is_empty() {
                    "prompt"
                } else {
                    "target"
                };
                return Err(EvaluationError::input(
                    "row of a data set",
                    format!("no {lacking} in row {row} of {}", self.file.display()),
                    "a prompt and a target",
                ));
            }
        }
        Ok(Samples { prompts, targets })
    }
}

impl Samples {
    /// Whether each row is of the positive class. As scikit-learn's `LabelEncoder` has it, this is
    /// the later of the two targets: the larger number, or the later word of the alphabet.
    ///
    /// # Errors
    /// There are not two different targets.
    pub fn labels(&self) -> Result<Vec<bool>, EvaluationError> {
        let mut found: Vec<&str> = self.targets.iter().map(String::as_str).collect();
        found.sort_unstable();
        found.dedup();
        let numbers: Option<Vec<f64>> = found.iter().map(|t| t.parse().ok()).collect();
        let later = match (found.as_slice(), numbers.as_deref()) {
            ([a, _], Some([x, y])) if x > y => *a,
            ([_, b], _) => *b,
            _ => {
                return Err(EvaluationError::input(
                    "targets of a binary data set",
                    match found.len() {
                        n @ 0..6 => format!("{n} different ones: {found:?}"),
                        n => format!("{n} different ones, {:?} among them", &found[..5]),
                    },
                    "2",
                ));
            }
        };
        Ok(self.targets.iter().map(|t| t == later).collect())
    }
}

/// These columns of a `.csv.zst` file whose first row names them.
fn read_columns<const N: usize>(
    file: &Path,
    names: [&str; N],
) -> Result<[Vec<String>; N], EvaluationError> {
    let wrong = |found: String, expected: &str| {
        let found = format!("{found} in {}", file.display());
        Err(EvaluationError::input(
            "data of sae-probes",
            found,
            expected,
        ))
    };
    let packed = match File::open(file) {
        Ok(packed) => packed,
        Err(e) => return wrong(format!("{e}"), "a file that can be read"),
    };
    let mut bytes = Vec::new();
    let unpacked = zstd::Decoder::new(packed)
        .and_then(|decoder| decoder.take(MOST_BYTES + 1).read_to_end(&mut bytes));
    match unpacked {
        Err(e) => return wrong(format!("{e}"), "a file compressed by zstd"),
        Ok(n) if n as u64 > MOST_BYTES => {
            return wrong(format!("more than {MOST_BYTES} bytes"), "at most so many");
        }
        Ok(_) => {}
    }
    let mut reader = csv::Reader::from_reader(bytes.as_slice());
    let header = match reader.headers() {
        Ok(header) => header.clone(),
        Err(e) => return wrong(format!("{e}"), "a first row with the names of the columns"),
    };
    let mut places = [0; N];
    for (place, name) in places.iter_mut().zip(names) {
        match header.iter().position(|h| h == name) {
            Some(found) => *place = found,
            None => {
                let found: Vec<&str> = header.iter().collect();
                return wrong(
                    format!("the columns {found:?}"),
                    &format!("a column {name:?}"),
                );
            }
        }
    }
    let mut columns = [const { Vec::new() }; N];
    for record in reader.into_records() {
        let record = match record {
            Ok(record) => record,
            Err(e) => return wrong(format!("{e}"), "rows as long as the first, in UTF-8"),
        };
        for (column, place) in columns.iter_mut().zip(places) {
            column.push(record.get(place).unwrap_or_default().to_string());
        }
    }
    Ok(columns)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("cleaned_data")).unwrap();
        for (name, text) in files {
            let bytes = zstd::encode_all(text.as_bytes(), 1).unwrap();
            std::fs::write(folder.path().join(name), bytes).unwrap();
        }
        folder
    }

    const LIST: &str = "Dataset Tag,Dataset save name,Data type\n\
        a,cleaned_data/1_a.csv,Binary Classification\n\
        b b,cleaned_data/2_b b.csv,Continuous Data\n\
        ,,\n\
        note,cleaned_data/53_.csv,\n";

    #[test]
    fn prompts_and_targets_are_read_as_they_stand() {
        let text = "prompt,prompt_len,target\n\"a, \"\"b\"\"\nc\",3,yes\n d ,1,no\n";
        let folder = folder(&[(MASTER, LIST), ("cleaned_data/1_a.csv.zst", text)]);
        let sets = DataSets::open(folder.path()).unwrap();
        let names: Vec<(&str, Kind)> = sets
            .all()
            .iter()
            .map(|d| (d.name.as_str(), d.kind))
            .collect();
        assert_eq!(names, [("1_a", Kind::Binary), ("2_b b", Kind::Continuous)]);
        assert_eq!(sets.binary(), [sets.find("1_a").unwrap()]);
        let samples = sets.find("1_a").unwrap().read().unwrap();
        assert_eq!(samples.prompts, ["a, \"b\"\nc", " d "]);
        assert_eq!(samples.labels().unwrap(), [true, false]);
    }

    #[test]
    fn the_positive_class_is_the_later_target() {
        let labels = |targets: &[&str]| {
            let targets = targets.iter().map(|t| t.to_string()).collect();
            Samples {
                prompts: vec![],
                targets,
            }
            .labels()
        };
        assert_eq!(labels(&["0", "1", "1"]).unwrap(), [false, true, true]);
        assert_eq!(labels(&["True", "False"]).unwrap(), [true, false]);
        assert_eq!(labels(&["9", "10"]).unwrap(), [false, true]);
        assert_eq!(labels(&["not_bigram", "bigram"]).unwrap(), [true, false]);
        let error = labels(&["a", "b", "c"]).unwrap_err().to_string();
        assert!(error.contains("3 different ones"), "{error}");
        assert!(labels(&["a"]).is_err() && labels(&[]).is_err());
    }

    #[test]
    fn damaged_data_is_refused_with_the_file_named() {
        let error = |text: &str| {
            let folder = folder(&[(MASTER, LIST), ("cleaned_data/1_a.csv.zst", text)]);
            let sets = DataSets::open(folder.path()).unwrap();
            sets.find("1_a").unwrap().read().unwrap_err().to_string()
        };
        for (text, says) in [
            ("prompt,label\na,1\n", "expected a column \"target\""),
            (
                "prompt,target\na,1,2\n",
                "expected rows as long as the first",
            ),
            ("prompt,target\na,\n", "no target in row 0"),
            ("prompt,target\n,1\n", "no prompt in row 0"),
            ("", "the columns []"),
        ] {
            let error = error(text);
            assert!(
                error.contains(says) && error.contains("1_a.csv.zst"),
                "{error}"
            );
        }

        let folder = folder(&[(MASTER, LIST)]);
        let set = DataSets::open(folder.path()).unwrap();
        let set = set.find("1_a").unwrap();
        let missing = set.read().unwrap_err().to_string();
        assert!(missing.contains("1_a.csv.zst"), "{missing}");
        std::fs::write(
            folder.path().join("cleaned_data/1_a.csv.zst"),
            "prompt,target",
        )
        .unwrap();
        let broken = set.read().unwrap_err().to_string();
        assert!(
            broken.contains("expected a file compressed by zstd"),
            "{broken}"
        );

        let nothing = tempfile::tempdir().unwrap();
        let error = DataSets::open(nothing.path()).unwrap_err().to_string();
        assert!(
            error.contains(MASTER) && error.contains("pip install sae-probes"),
            "{error}"
        );
        let sets = DataSets::open(folder.path()).unwrap();
        assert!(sets.find("3_c").unwrap_err().to_string().contains("1_a"));
    }

    #[test]
    fn a_list_that_leads_out_of_the_folder_is_refused() {
        let list = "Dataset save name,Data type\n../../x.csv,Binary Classification\n";
        let folder = folder(&[(MASTER, list)]);
        assert!(DataSets::open(folder.path()).is_err());
    }

    /// With the installed package: SAE_PROBES=…/site-packages/sae_probes cargo test -- --ignored
    #[test]
    #[ignore = "needs the Python package sae-probes, which .ci/run has"]
    fn the_package_has_113_balanced_binary_data_sets() {
        let folder = std::env::var_os("SAE_PROBES").expect("SAE_PROBES names the folder");
        let sets = DataSets::open(Path::new(&folder)).unwrap();
        let of = |kind| sets.all().iter().filter(|d| d.kind == kind).count();
        let counts = [Kind::Binary, Kind::Multiclass, Kind::Continuous].map(of);
        assert_eq!(counts, [113, 20, 22]);
        for set in sets.binary() {
            let labels = set.read().unwrap().labels().unwrap();
            assert!((728..=5000).contains(&labels.len()));
            assert_eq!(labels.iter().filter(|l| **l).count() * 2, labels.len());
        }
        for set in sets.all() {
            assert!(!set.read().unwrap().prompts.is_empty());
        }
    }
}
