//! Reads the blocks of a journal file, whatever its bytes are.
//!
//! [`Window`] holds a part of the file in memory; [`Window::see`] returns what is at an
//! offset. Memory is bounded by the window.

use std::io;

use super::block::{BLOCK_HEADER, Block, BlockError, FILE_HEADER, Hash, MAX_BLOCK};
use super::disk::{DiskFile, read_full};

const WINDOW: usize = 256 << 10;

pub struct Window {
    file: Box<dyn DiskFile>,
    start: u64,
    bytes: Vec<u8>,
}

/// What is at an offset.
#[derive(Debug, PartialEq, Eq)]
pub enum Seen<'a> {
    /// A block with a valid hash; its position in the chain is not checked yet.
    Block(Block<'a>),
    /// The file ends here.
    End,
    /// The file ends within a block, or only zeros follow: an unfinished write.
    Torn,
    Damaged(BlockError),
}

impl Window {
    pub fn new(file: Box<dyn DiskFile>) -> Window {
        Window {
            file,
            start: 0,
            bytes: Vec::new(),
        }
    }

    pub fn into_file(self) -> Box<dyn DiskFile> {
        self.file
    }

    pub fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    /// Discards what was read, since the file may have grown.
    pub fn forget(&mut self) {
        self.bytes.clear();
    }

    /// Up to `wanted` bytes from `offset` on; fewer only if the file ends.
    pub fn at(&mut self, offset: u64, wanted: usize) -> io::Result<&[u8]> {
        let end = offset.saturating_add(wanted as u64);
        let held = self.start.saturating_add(self.bytes.len() as u64);
        if offset < self.start || end > held {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.resize(WINDOW.max(wanted), 0);
            let read = read_full(self.file.as_ref(), &mut bytes, offset)?;
            bytes.truncate(read);
            self.bytes = bytes;
            self.start = offset;
        }
        let from = usize::try_from(offset - self.start).unwrap_or(usize::MAX);
        let rest = self.bytes.get(from..).unwrap_or_default();
        Ok(rest.get(..wanted).unwrap_or(rest))
    }

    pub fn header(&mut self) -> io::Result<&[u8]> {
        self.at(0, FILE_HEADER)
    }

    pub fn see(&mut self, offset: u64, key: &Hash) -> io::Result<Seen<'_>> {
        if self.at(offset, MAX_BLOCK)?.first() == Some(&0) && self.only_zeros(offset)? {
            return Ok(Seen::Torn);
        }
        let bytes = self.at(offset, MAX_BLOCK)?;
        Ok(match Block::read(bytes, key) {
            Ok(block) => Seen::Block(block),
            Err(_) if bytes.is_empty() => Seen::End,
            Err(BlockError::Short { .. }) => Seen::Torn,
            Err(error) => Seen::Damaged(error),
        })
    }

    fn only_zeros(&mut self, mut offset: u64) -> io::Result<bool> {
        loop {
            let bytes = self.at(offset, WINDOW)?;
            if bytes.is_empty() {
                return Ok(true);
            }
            if bytes.iter().any(|byte| *byte != 0) {
                return Ok(false);
            }
            offset += bytes.len() as u64;
        }
    }

    /// The first offset from `from` on with a block that `wanted` accepts. Reads each byte
    /// once and computes a hash only where a block's header is intact.
    pub fn find(
        &mut self,
        from: u64,
        key: &Hash,
        mut wanted: impl FnMut(&Block<'_>) -> bool,
    ) -> io::Result<Option<u64>> {
        let mut offset = from;
        loop {
            let bytes = self.at(offset, WINDOW)?;
            if bytes.len() < BLOCK_HEADER {
                return Ok(None);
            }
            let last = bytes.len() < WINDOW;
            // A block that crosses the end of the window is examined in the next one.
            let end = if last {
                bytes.len()
            } else {
                WINDOW - MAX_BLOCK
            };
            for at in 0..end {
                let rest = bytes.get(at..).unwrap_or_default();
                if let Ok(block) = Block::read(rest, key)
                    && wanted(&block)
                {
                    return Ok(Some(offset + at as u64));
                }
            }
            if last {
                return Ok(None);
            }
            offset += end as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bytes(Vec<u8>);

    impl DiskFile for Bytes {
        fn len(&self) -> io::Result<u64> {
            Ok(self.0.len() as u64)
        }

        /// Reads at most 1000 bytes at a time.
        fn read_at(&self, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
            let rest = self.0.get(offset as usize..).unwrap_or_default();
            let read = rest.len().min(bytes.len()).min(1000);
            bytes[..read].copy_from_slice(&rest[..read]);
            Ok(read)
        }

        fn write_at(&mut self, _: &[u8], _: u64) -> io::Result<usize> {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }

        fn set_len(&mut self, _: u64) -> io::Result<()> {
            Err(io::ErrorKind::ReadOnlyFilesystem.into())
        }

        fn sync(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[track_caller]
    fn check(name: &str, bytes: Vec<u8>, want: &Seen<'_>) {
        let mut window = Window::new(Box::new(Bytes(bytes)));
        assert_eq!(window.see(0, &[0; 32]).unwrap(), *want, "{name}");
    }

    #[test]
    fn bytes_that_are_not_a_block_are_classified() {
        check("nothing", vec![], &Seen::End);
        check("a few bytes", vec![b'T'; 50], &Seen::Torn);
        check("zeros to the end", vec![0; 3 * WINDOW], &Seen::Torn);
        let mut late = vec![0; 3 * WINDOW];
        late.push(1);
        check(
            "zeros and then something",
            late,
            &Seen::Damaged(BlockError::Magic),
        );
        check(
            "foreign bytes",
            vec![1; 200],
            &Seen::Damaged(BlockError::Magic),
        );
    }

    #[test]
    fn a_window_returns_any_range_of_the_file() {
        let all: Vec<u8> = (0..WINDOW as u64 * 2 + 77)
            .map(|at| (at % 251) as u8)
            .collect();
        let mut window = Window::new(Box::new(Bytes(all.clone())));
        for (offset, wanted) in [
            (0, 10),
            (WINDOW - 3, 9000),
            (5, 5),
            (all.len() - 2, 100),
            (all.len() + 9, 1),
        ] {
            let end = (offset + wanted).min(all.len());
            let expected = all.get(offset..end).unwrap_or_default();
            assert_eq!(window.at(offset as u64, wanted).unwrap(), expected);
        }
    }
}
