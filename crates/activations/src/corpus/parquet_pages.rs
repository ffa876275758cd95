//! Checks what the pages of a Parquet file claim. polars reserves memory for as many values as a
//! page's header claims, and a negative number ends the process. So headers are checked before
//! values are read.

use lapidary_kernels::MappedFile;
use polars::io::parquet::metadata::FileMetadata;
use polars_buffer::Buffer;
use polars_parquet::parquet::page::CompressedPage;
use polars_parquet::parquet::read::PageReader;
use std::io::Cursor;
use std::path::Path;

struct Mapped(MappedFile);

impl AsRef<[u8]> for Mapped {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// Reads the header of every page of the columns `wanted` (of all if none are named), and no
/// values.
///
/// # Errors
/// In words: the file cannot be mapped, a page lies outside it, a header is not readable, or a page
/// claims more values than its rows can have.
pub fn check_parquet_pages(
    path: &Path,
    metadata: &FileMetadata,
    wanted: &[&str],
) -> Result<(), String> {
    let bytes = Buffer::from_owner(Mapped(MappedFile::open(path).map_err(|e| e.to_string())?));
    for group in &metadata.row_groups {
        for chunk in group.parquet_columns() {
            let path = &chunk.descriptor().path_in_schema;
            let name = path.first().map_or("", |name| name.as_str());
            if !wanted.is_empty() && !wanted.contains(&name) {
                continue;
            }
            let range = chunk.byte_range();
            let (start, end) = (range.start as usize, range.end as usize);
            if start > end || end > bytes.len() {
                return Err(format!(
                    "column `{name}`: found bytes {start} to {end}, expected at most {}",
                    bytes.len()
                ));
            }
            // Values of lists are as many as they like, but their number has 31 bits.
            let most = match chunk.descriptor().descriptor.max_rep_level {
                0 => group.num_rows(),
                _ => i32::MAX as usize,
            };
            let part = bytes.clone().sliced(start..end);
            for page in PageReader::new(Cursor::new(part), chunk, vec![], end - start) {
                let CompressedPage::Data(page) =
                    page.map_err(|e| format!("column `{name}`: {e}"))?
                else {
                    continue;
                };
                let found = page.num_values();
                if found > most {
                    return Err(format!(
                        "column `{name}`: found a page of {} values, expected at most {most}",
                        found as i64
                    ));
                }
            }
        }
    }
    Ok(())
}
