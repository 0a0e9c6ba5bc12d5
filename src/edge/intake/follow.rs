//! Access logs that grow: read as they are written, through rotation and truncation, from where they were left.
//!
//! A log is known by its device and inode and by the bytes before its position: so a file that was renamed is read to its end
//! before the next one begins, and one that was cut and grew again is not taken for more of the old one. One that was packed
//! meanwhile is another file: it is known by the same bytes at the same place of what it holds. Only whole lines are
//! handed on; a position lies behind one. What this refuses to do: guess. What may have been missed is told ([`Came::Cut`]).

use std::fs::{File, Metadata};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::open::open_as;
use crate::limits::{FOLLOW_PACKED_MAX, FOLLOW_TAIL_BYTES, LOG_LINE_BYTES_MAX};
use crate::units::RunTime;

/// Time that a renamed log is still looked at: servers go on writing to it until they are told to open the new one.
const OLD_LOOKED_AT: Duration = Duration::from_secs(5);

/// Bytes that one packed byte can become: a stream of DEFLATE at most 1,032, and zstd may do better, for no log of different lines.
const PACKED_RATIO_MAX: u64 = 1_032;

/// Bytes read at once.
const READ_BYTES: usize = 256 * 1024;

/// Where a log was left: behind a whole line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Position {
    /// Path as it is followed.
    pub path: PathBuf,
    /// Device of the file.
    device: u64,
    /// Inode of the file.
    inode: u64,
    /// Bytes taken.
    offset: u64,
    /// Checksum (CRC-32C) of the last bytes before it, at most [`FOLLOW_TAIL_BYTES`].
    tail: u32,
    /// When the file was changed last, seconds since 1970; 0 where that is not known.
    #[serde(default)]
    modified_s: i64,
}

/// What came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came<'a> {
    /// A line, without its end.
    Line(&'a [u8]),
    /// The log was cut, or replaced, before it was known to be read: lines may be missing here.
    Cut,
}

/// One log.
pub struct Followed {
    path: PathBuf,
    file: Option<File>,
    id: (u64, u64),
    offset: u64,
    /// The last bytes before the offset.
    tail: Vec<u8>,
    /// A line without its end yet.
    part: Vec<u8>,
    /// Its beginning was longer than a line may be: it is passed over to its end.
    skipping: bool,
    /// Since when another file has the log's name.
    renamed: Option<RunTime>,
    /// It was packed since it was left: what is left of it, and where that is.
    packed: Option<(Packed, Position)>,
    buffer: Vec<u8>,
}

fn id(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Whether this, behind a log's name, is how those are called that were rotated away from it; the log itself is too.
fn is_rotated(end: &str) -> bool {
    let end = [".gz", ".zst"].iter().find_map(|e| end.strip_suffix(e)).unwrap_or(end);
    let mut chars = end.chars();
    match (chars.next(), chars.next()) {
        (None, _) => true,
        (Some('.' | '-'), Some('0'..='9')) => chars.all(|c| c.is_ascii_digit() || "._-T".contains(c)),
        _ => false,
    }
}

/// The last bytes before `offset`.
fn tail_of(file: &File, offset: u64) -> io::Result<Vec<u8>> {
    let n = offset.min(FOLLOW_TAIL_BYTES);
    let mut tail = vec![0; n as usize];
    file.read_exact_at(&mut tail, offset - n)?;
    Ok(tail)
}

impl Followed {
    /// Follows the log at `path`: from `left` on where it is known, else from the beginning of what is there. Says whether
    /// lines may be missing in between.
    ///
    /// # Errors
    /// When the folder or what is there cannot be read. A log that is not there yet is waited for.
    pub fn open(path: &Path, left: Option<&Position>) -> anyhow::Result<(Self, bool)> {
        let mut this = Self {
            path: path.to_owned(),
            file: None,
            id: (0, 0),
            offset: 0,
            tail: Vec::new(),
            part: Vec::new(),
            skipping: false,
            renamed: None,
            packed: None,
            buffer: vec![0; READ_BYTES],
        };
        let cannot = || format!("cannot follow {}", path.display());
        let Some(left) = left else {
            this.open_path().with_context(cannot)?;
            return Ok((this, false));
        };
        let names = Self::names(path).with_context(cannot)?;
        if !names.iter().any(|name| this.resume(name, left).unwrap_or(false)) {
            let Some(found) = Packed::find(&names, left.offset, left.tail, left.modified_s) else {
                this.open_path().with_context(cannot)?;
                return Ok((this, true));
            };
            this.packed = Some((found, left.clone()));
        }
        // Those that came after it are found when it has been read to its end.
        Ok((this, false))
    }

    /// The log's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The log and those that were rotated away from it (`access.log.1`, `access.log-20261126.gz`) in its folder, by age, oldest first; its own is the last.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn names(path: &Path) -> io::Result<Vec<PathBuf>> {
        let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let other = entry.file_name().to_string_lossy().into_owned();
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_file() && other.strip_prefix(&name).is_some_and(is_rotated) {
                let age = (other == name, meta.mtime(), meta.mtime_nsec());
                found.push((age, folder.join(entry.file_name())));
            }
        }
        found.sort_unstable();
        let names: Vec<PathBuf> = found.into_iter().map(|(_, path)| path).collect();
        // While one is being packed both are there.
        let is_twice = |p: &PathBuf| is_packed(p) && names.contains(&p.with_extension(""));
        Ok(names.iter().filter(|p| !is_twice(p)).cloned().collect())
    }

    /// Whether the file at `name` is the one that was left; then it is open at that place.
    fn resume(&mut self, name: &Path, left: &Position) -> io::Result<bool> {
        let file = File::open(name)?;
        let meta = file.metadata()?;
        if id(&meta) != (left.device, left.inode) || meta.len() < left.offset {
            return Ok(false);
        }
        let tail = tail_of(&file, left.offset)?;
        if crc32c::crc32c(&tail) != left.tail {
            return Ok(false);
        }
        (self.id, self.offset, self.tail) = (id(&meta), left.offset, tail);
        self.file = Some(file);
        Ok(true)
    }

    /// Opens the file that has the log's name now, at its beginning, if there is one.
    fn open_path(&mut self) -> io::Result<()> {
        self.part.clear();
        self.tail.clear();
        (self.offset, self.skipping, self.renamed) = (0, false, None);
        match File::open(&self.path) {
            Ok(file) => {
                self.id = id(&file.metadata()?);
                self.file = Some(file);
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => self.file = None,
            Err(e) => return Err(e),
        }
        Ok(())
    }

    /// Where the next line begins that was not handed on. None where no file is open.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        if let Some((_, left)) = &self.packed {
            return Some(left.clone());
        }
        let modified_s = self.file.as_ref()?.metadata().map_or(0, |m| m.mtime());
        let offset = self.offset - self.part.len() as u64;
        // The tail ends where the part began.
        let end = self.tail.len().saturating_sub(self.part.len());
        let from = end.saturating_sub(FOLLOW_TAIL_BYTES as usize);
        let tail = crc32c::crc32c(self.tail.get(from..end).unwrap_or_default());
        Some(Position {
            path: self.path.clone(),
            device: self.id.0,
            inode: self.id.1,
            offset,
            tail,
            modified_s,
        })
    }

    /// Hands on the lines that came since the last call, at most about a megabyte of them; true where more wait.
    ///
    /// # Errors
    /// When the disk fails, or `each` does.
    pub fn poll(
        &mut self,
        now: RunTime,
        mut each: impl FnMut(Came<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let path = self.path.display().to_string();
        let cannot = || format!("cannot read {path}");
        if let Some((packed, _)) = self.packed.take() {
            self.read_packed(packed, &mut each).with_context(cannot)?;
        }
        if self.file.is_none() {
            self.open_path().with_context(cannot)?;
        }
        if self.was_cut().with_context(cannot)? {
            each(Came::Cut)?;
            self.open_path().with_context(cannot)?;
        }
        for _ in 0..4 {
            if !self.read_some(&mut each)? {
                return self.next_file(now, &mut each).with_context(cannot);
            }
        }
        Ok(true)
    }

    /// Whether what was read is not there any more: the file is shorter, or other bytes stand before our place.
    fn was_cut(&self) -> io::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let n = self.tail.len().min(FOLLOW_TAIL_BYTES as usize);
        if file.metadata()?.len() < self.offset {
            return Ok(true);
        }
        let now = tail_of(file, self.offset)?;
        Ok(self.tail[self.tail.len() - n..] != now[now.len() - n..])
    }

    /// Reads once; false at the end of what is there.
    fn read_some(&mut self, each: &mut impl FnMut(Came<'_>) -> anyhow::Result<()>) -> anyhow::Result<bool> {
        let Some(file) = &mut self.file else { return Ok(false) };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut buffer = std::mem::take(&mut self.buffer);
        let read = file.read(&mut buffer);
        let n = match read {
            Ok(n) => n,
            Err(e) => {
                self.buffer = buffer;
                return Err(e.into());
            }
        };
        let result = self.lines(&buffer[..n], each);
        self.buffer = buffer;
        result.map(|()| n > 0)
    }

    fn lines(
        &mut self,
        mut bytes: &[u8],
        each: &mut impl FnMut(Came<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        self.offset += bytes.len() as u64;
        // Enough to find the tail before a part that is still open.
        self.tail.extend_from_slice(bytes);
        let keep = FOLLOW_TAIL_BYTES as usize + LOG_LINE_BYTES_MAX + 2;
        self.tail.drain(..self.tail.len().saturating_sub(keep));
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = (&bytes[..end], &bytes[end + 1..]);
            bytes = rest;
            if std::mem::take(&mut self.skipping) {
                self.part.clear();
            } else if self.part.is_empty() {
                each(Came::Line(line))?;
            } else {
                self.part.extend_from_slice(line);
                let whole = std::mem::take(&mut self.part);
                each(Came::Line(&whole))?;
            }
        }
        if self.skipping {
            return Ok(());
        }
        self.part.extend_from_slice(bytes);
        if self.part.len() > LOG_LINE_BYTES_MAX {
            // Told as too long once, and passed over to its end.
            let long = std::mem::take(&mut self.part);
            self.skipping = true;
            each(Came::Line(&long))?;
        }
        Ok(())
    }

    /// At the end of the open file: the one that came after it, if there is one. True where it has to be read.
    fn next_file(
        &mut self,
        now: RunTime,
        each: &mut impl FnMut(Came<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<bool> {
        let Some(file) = &self.file else { return Ok(false) };
        let is_ours = |name: &Path| std::fs::metadata(name).is_ok_and(|m| id(&m) == self.id);
        if is_ours(&self.path) {
            self.renamed = None;
            return Ok(false);
        }
        // It has another name now. Its server may still write to it.
        let silent = file.metadata()?.modified()?.elapsed().is_ok_and(|age| age > OLD_LOOKED_AT);
        let since = *self.renamed.get_or_insert(now);
        if !silent && now < since.plus(OLD_LOOKED_AT) {
            return Ok(false);
        }
        let modified_s = file.metadata()?.mtime();
        let find = |names: &[PathBuf]| names.iter().position(|name| is_ours(name));
        let mut names = Self::names(&self.path)?;
        if find(&names).is_none() {
            // It may have been packed between two looks, of which the first still saw it.
            names = Self::names(&self.path)?;
        }
        let next = match find(&names) {
            Some(place) => names.get(place + 1).cloned(),
            None if self.path.exists() => {
                let from = self.tail.len().saturating_sub(FOLLOW_TAIL_BYTES as usize);
                let tail = crc32c::crc32c(&self.tail[from..]);
                if let Some(packed) = Packed::find(&names, self.offset, tail, modified_s) {
                    self.read_packed(packed, each)?;
                    return Ok(true);
                }
                // Removed: whether others came in between cannot be known.
                each(Came::Cut)?;
                Some(self.path.clone())
            }
            None => None,
        };
        // Until there is one, this one stays: its place is where a restart goes on.
        let Some(next) = next else { return Ok(false) };
        self.last_line(each)?;
        if next == self.path {
            self.open_path()?;
        } else {
            self.open_older(&next, each)?;
        }
        Ok(true)
    }

    /// What stands at the end of a file that will not grow is a line, with or without its end.
    fn last_line(&mut self, each: &mut impl FnMut(Came<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
        let (part, skipped) = (std::mem::take(&mut self.part), std::mem::take(&mut self.skipping));
        if part.is_empty() || skipped { Ok(()) } else { each(Came::Line(&part)) }
    }

    /// Opens an older log at its beginning.
    fn open_older(
        &mut self,
        name: &Path,
        each: &mut impl FnMut(Came<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        (self.tail, self.part) = (Vec::new(), Vec::new());
        if is_packed(name) {
            return match Packed::open(name) {
                Ok(packed) => self.read_packed(packed, each),
                // Damaged where it begins: there is nothing of it to be had.
                Err(e) if e.root_cause().downcast_ref().is_some_and(is_damage) => {
                    each(Came::Cut)?;
                    self.pass_over(File::open(name)?).map_err(Into::into)
                }
                Err(e) => Err(e),
            };
        }
        let file = File::open(name).with_context(|| format!("cannot open {}", name.display()))?;
        (self.id, self.offset, self.renamed) = (id(&file.metadata()?), 0, None);
        self.file = Some(file);
        Ok(())
    }

    /// Reads the rest of a packed log to its end at once: there is no place within it. One that is damaged ends there, which is
    /// told.
    fn read_packed(
        &mut self,
        mut packed: Packed,
        each: &mut impl FnMut(Came<'_>) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            match packed.bytes.read(&mut buffer) {
                Ok(0) => break self.last_line(each)?,
                Ok(n) => self.lines(&buffer[..n], each)?,
                Err(e) if is_damage(&e) => {
                    (self.part, self.skipping) = (Vec::new(), false);
                    break each(Came::Cut)?;
                }
                Err(e) => {
                    let cannot = format!("cannot read {}, into which it was packed", packed.name.display());
                    return Err(anyhow::Error::from(e).context(cannot));
                }
            }
        }
        self.pass_over(packed.file).map_err(Into::into)
    }

    /// A file of which nothing more is wanted: its end is the place from which the next one is looked for.
    fn pass_over(&mut self, file: File) -> io::Result<()> {
        let meta = file.metadata()?;
        (self.id, self.renamed) = (id(&meta), None);
        (self.offset, self.tail) = (meta.len(), tail_of(&file, meta.len())?);
        self.file = Some(file);
        Ok(())
    }
}

fn is_packed(name: &Path) -> bool {
    name.extension().is_some_and(|e| e == "gz" || e == "zst")
}

fn is_damage(e: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, InvalidInput, Other, UnexpectedEof};
    matches!(e.kind(), InvalidData | InvalidInput | Other | UnexpectedEof)
}

/// A packed log that is being read.
struct Packed {
    name: PathBuf,
    file: File,
    bytes: Box<dyn Read + Send>,
}

impl Packed {
    fn open(name: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot open {}", name.display());
        let file = File::open(name).with_context(cannot)?;
        let bytes = open_as(name, Box::new(file.try_clone()?)).with_context(cannot)?.bytes;
        Ok(Self { name: name.to_owned(), file, bytes })
    }

    /// The one that holds a log which was read so far, with these bytes (their checksum) before that place, read up to there.
    /// Packing keeps the time of the last change: what was changed before `modified_s` is another one, and ours is among the
    /// oldest of those that are left.
    fn find(names: &[PathBuf], offset: u64, tail: u32, modified_s: i64) -> Option<Self> {
        // Of a log of which nothing was read nothing is known.
        if offset == 0 {
            return None;
        }
        let may_be = |name: &&PathBuf| {
            is_packed(name)
                && std::fs::metadata(name).is_ok_and(|m| {
                    m.mtime() >= modified_s && m.len().saturating_mul(PACKED_RATIO_MAX) >= offset
                })
        };
        let few = names.iter().filter(may_be).take(FOLLOW_PACKED_MAX);
        few.into_iter().find_map(|name| Self::open(name).ok()?.passed(offset, tail).ok()?)
    }

    /// Itself behind the place, where those bytes stand before it.
    fn passed(mut self, offset: u64, tail: u32) -> io::Result<Option<Self>> {
        let n = offset.min(FOLLOW_TAIL_BYTES);
        let passed = io::copy(&mut self.bytes.by_ref().take(offset - n), &mut io::sink())?;
        let mut last = Vec::new();
        self.bytes.by_ref().take(n).read_to_end(&mut last)?;
        let fits = passed == offset - n && last.len() as u64 == n && crc32c::crc32c(&last) == tail;
        Ok(fits.then_some(self))
    }
}

#[cfg(test)]
#[path = "follow_tests.rs"]
mod tests;
