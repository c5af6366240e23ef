//! The links of an HDF5 file: the names in its groups, and the targets of soft and external links.
//!
//! The parser of arrays ignores links that are not hard, and fails on old-style groups that have one. This module reads
//! only links, by "HDF5 File Format Specification Version 3.0", chapters III and IV.A: old-style groups (B-tree, symbol
//! nodes, local heap), links in an object's header, and links in a fractal heap, which large groups use.
//!
//! Everything is bounded: no block is larger than [`BLOCK_BYTES_MAX`], all blocks and names together take at most
//! [`BYTES_MAX`], and a walk visits at most [`VISITS_MAX`] blocks and links.

use crate::data::names;
use hdf5_pure::Superblock;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;
use std::rc::Rc;

/// The largest block of names or messages that is read.
const BLOCK_BYTES_MAX: u64 = 16 << 20;

/// How much is read in total.
const BYTES_MAX: u64 = 256 << 20;

/// The longest name or target of a link.
const NAME_BYTES_MAX: usize = 4096;

/// The most blocks and links that a walk visits.
const VISITS_MAX: usize = 2_000_000;

/// How many soft links are followed for one path.
const SOFT_LINKS_MAX: usize = 16;

/// How deeply groups may be nested.
pub(super) const DEPTH_MAX: usize = 16;

/// The target of a link that is not followed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// A path that does not exist.
    Soft(String),
    External {
        file: String,
        object: String,
    },
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A path of hard links only.
    Hard {
        path: String,
        address: u64,
    },
    Elsewhere(Target),
}

/// The contents of a file's groups.
#[derive(Debug, Default)]
pub(super) struct Walked {
    pub members: Vec<Member>,
    /// Links that are not followed, by their paths.
    pub elsewhere: Vec<(String, Target)>,
    /// Groups that are nested too deeply to be visited.
    pub too_deep: Vec<String>,
}

/// An object that is not a group.
#[derive(Debug)]
pub(super) struct Member {
    /// The path at which it was found.
    pub named: String,
    /// A path of hard links only.
    pub path: String,
    pub address: Option<u64>,
}

#[derive(Debug, Clone)]
enum Link {
    Hard(u64),
    Soft(String),
    External { file: String, object: String },
}

/// The links of a group by their names.
type Group = Rc<[(String, Link)]>;

/// Why links cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unread {
    /// Damaged, or of a form that this reader does not know.
    Unknown,
    /// More than the limits allow.
    TooMuch,
}

use Unread::{TooMuch, Unknown};

impl From<io::Error> for Unread {
    fn from(_: io::Error) -> Self {
        Unknown
    }
}

type Known<T> = Result<T, Unread>;

pub(super) struct Links {
    file: File,
    base: u64,
    root: u64,
    offset_bytes: usize,
    length_bytes: usize,
    visits: usize,
    bytes: u64,
    /// The links read so far, by the address of the object.
    known: BTreeMap<u64, Option<Group>>,
}

impl Links {
    pub fn open(path: &Path, superblock: &Superblock) -> io::Result<Self> {
        Ok(Self {
            file: File::open(path)?,
            base: superblock.base_address.get(),
            root: superblock.root_group_address,
            offset_bytes: usize::from(superblock.offset_size),
            length_bytes: usize::from(superblock.length_size),
            visits: 0,
            bytes: 0,
            known: BTreeMap::new(),
        })
    }

    /// The target of a name at the top level; `None` if there is no such name.
    pub fn find(&mut self, name: &str) -> Known<Option<Found>> {
        let wanted = vec![name.to_owned()];
        match self.follow(wanted)? {
            Followed::Hard(path, address) => Ok(Some(Found::Hard { path, address })),
            Followed::Elsewhere(target) => Ok(Some(Found::Elsewhere(target))),
            Followed::Nothing(None) => Ok(None),
            Followed::Nothing(Some(path)) => Ok(Some(Found::Elsewhere(Target::Soft(path)))),
        }
    }

    /// All objects that are not groups, and what was not followed or visited. Soft links are followed. An object with
    /// several names is listed several times; a group is visited once.
    pub fn walk(&mut self) -> Known<Walked> {
        let mut found = Walked::default();
        let mut seen = BTreeSet::new();
        self.walk_group(self.root, "", 0, &mut seen, &mut found)?;
        Ok(found)
    }

    fn walk_group(
        &mut self,
        address: u64,
        path: &str,
        depth: usize,
        seen: &mut BTreeSet<u64>,
        found: &mut Walked,
    ) -> Known<()> {
        if DEPTH_MAX < depth && !seen.contains(&address) {
            found.too_deep.push(path.to_owned());
            return Ok(());
        }
        if !seen.insert(address) {
            return Ok(());
        }
        let Some(links) = self.links(address)? else {
            return Ok(());
        };
        // In the order of names, so that the first of an object's names does not depend on the file's order.
        let mut names = links.iter().map(|(name, _)| name.clone()).collect();
        names::sort_paths(&mut names);
        let links: BTreeMap<&String, &Link> =
            links.iter().map(|(name, link)| (name, link)).collect();
        for name in &names {
            let Some(&link) = links.get(name) else {
                continue;
            };
            let named = format!("{path}/{name}");
            let (address, path) = match link {
                Link::Hard(address) => (*address, named.clone()),
                Link::Soft(_) => {
                    let steps = named.split('/').filter(|step| !step.is_empty());
                    match self.follow(steps.map(str::to_owned).collect())? {
                        Followed::Hard(path, address) => (address, path),
                        Followed::Elsewhere(target) => {
                            found.elsewhere.push((named, target));
                            continue;
                        }
                        Followed::Nothing(soft) => {
                            let target = Target::Soft(soft.unwrap_or_default());
                            found.elsewhere.push((named, target));
                            continue;
                        }
                    }
                }
                Link::External { file, object } => {
                    let target = Target::External {
                        file: file.clone(),
                        object: object.clone(),
                    };
                    found.elsewhere.push((named, target));
                    continue;
                }
            };
            if self.links(address)?.is_some() {
                self.walk_group(address, &path, depth + 1, seen, found)?;
            } else {
                found.members.push(Member {
                    named,
                    path,
                    address: Some(address),
                });
            }
        }
        Ok(())
    }

    /// Follows a path from the root, including soft links.
    fn follow(&mut self, path: Vec<String>) -> Known<Followed> {
        let mut steps: Vec<String> = path.into_iter().rev().collect();
        let mut at: Vec<(String, u64)> = Vec::new();
        let mut soft: Option<String> = None;
        let mut followed = 0;
        while let Some(step) = steps.pop() {
            match step.as_str() {
                "" | "." => continue,
                ".." => {
                    at.pop();
                    continue;
                }
                _ => {}
            }
            let address = at.last().map_or(self.root, |(_, address)| *address);
            self.visit()?;
            let links = self.links(address)?;
            let link = links
                .iter()
                .flat_map(|links| links.iter())
                .find(|(name, _)| *name == step);
            match link.map(|(_, link)| link.clone()) {
                None => return Ok(Followed::Nothing(soft)),
                Some(Link::Hard(address)) => at.push((step, address)),
                Some(Link::External { file, object }) => {
                    return Ok(Followed::Elsewhere(Target::External { file, object }));
                }
                Some(Link::Soft(target)) => {
                    followed += 1;
                    if SOFT_LINKS_MAX < followed {
                        return Ok(Followed::Nothing(Some(target)));
                    }
                    if target.starts_with('/') {
                        at.clear();
                    }
                    steps.extend(target.split('/').rev().map(str::to_owned));
                    soft = Some(target);
                }
            }
        }
        let path: String = at.iter().map(|(name, _)| format!("/{name}")).collect();
        Ok(match at.last() {
            Some(&(_, address)) => Followed::Hard(path, address),
            None => Followed::Nothing(soft),
        })
    }

    /// The links of a group; `None` for an object that is not a group.
    fn links(&mut self, address: u64) -> Known<Option<Group>> {
        if let Some(links) = self.known.get(&address) {
            return Ok(links.clone());
        }
        let links = self.read_links(address)?.map(Rc::from);
        self.known.insert(address, links.clone());
        Ok(links)
    }

    fn read_links(&mut self, address: u64) -> Known<Option<Vec<(String, Link)>>> {
        let mut links = Vec::new();
        let mut is_group = false;
        for (kind, body) in self.messages(address)? {
            match kind {
                MESSAGE_SYMBOL_TABLE => {
                    is_group = true;
                    let mut body = Bytes(&body);
                    let tree = body.number(self.offset_bytes)?;
                    let heap = body.number(self.offset_bytes)?;
                    let names = self.heap(heap)?;
                    self.symbols(tree, &names, &mut links)?;
                }
                MESSAGE_LINK_INFO => {
                    is_group = true;
                    self.dense(&body, &mut links)?;
                }
                MESSAGE_LINK => {
                    is_group = true;
                    links.extend(self.link(&body)?);
                }
                _ => {}
            }
        }
        Ok(is_group.then_some(links))
    }

    /// The links that a Link Info message refers to, if there are any outside the header.
    fn dense(&mut self, body: &[u8], into: &mut Vec<(String, Link)>) -> Known<()> {
        let mut body = Bytes(body);
        let (_, flags) = (body.byte()?, body.byte()?);
        if flags & 1 != 0 {
            body.take(8)?;
        }
        let heap = body.take(self.offset_bytes)?;
        if heap.iter().all(|&byte| byte == 0xff) {
            return Ok(());
        }
        let heap = Bytes(heap).number(self.offset_bytes)?;
        let index = body.number(self.offset_bytes)?;
        let heap = self.fractal_heap(heap)?;
        for id in self.heap_ids(index)? {
            let message = self.object(&heap, &id)?;
            into.extend(self.link(&message)?);
        }
        Ok(())
    }

    /// The heap IDs of an index of links by name: a version 2 B-tree.
    fn heap_ids(&mut self, index: u64) -> Known<Vec<Vec<u8>>> {
        let size = 18 + self.offset_bytes + self.length_bytes;
        let header = self.read(self.absolute(index)?, size as u64)?;
        let mut header = Bytes(&header);
        if header.take(4)? != b"BTHD" || header.take(2)?[1] != INDEX_BY_NAME {
            return Err(Unknown);
        }
        let node_bytes = header.number(4)? as usize;
        let record_bytes = header.number(2)? as usize;
        let depth = header.number(2)? as usize;
        header.take(2)?;
        let root = header.number(self.offset_bytes)?;
        let count = header.number(2)? as usize;
        if DEPTH_MAX < depth {
            return Err(Unknown);
        }
        let fits = node_bytes.checked_sub(NODE_FRAME_BYTES).ok_or(Unknown)?;
        let leaf_max = fits.checked_div(record_bytes).ok_or(Unknown)? as u64;
        let mut tree = NameIndex {
            record_bytes,
            count_bytes: width_of(leaf_max),
            total_bytes: vec![0],
        };
        let mut total_max = leaf_max;
        for level in 1..=depth {
            let pointer = self.pointer_bytes(&tree, level);
            let max = (fits.saturating_sub(pointer) / (record_bytes + pointer)) as u64;
            total_max = total_max.saturating_mul(max + 1).saturating_add(max);
            tree.total_bytes.push(width_of(total_max));
        }
        let mut records = Vec::new();
        self.below(&tree, root, depth, count, &mut records)?;
        Ok(records)
    }

    /// Bytes of a pointer in a node of this level to a child one level below.
    fn pointer_bytes(&self, tree: &NameIndex, level: usize) -> usize {
        let below = level.saturating_sub(1);
        let total = tree.total_bytes.get(below).copied().unwrap_or_default();
        self.offset_bytes + tree.count_bytes + total
    }

    /// The heap IDs of a node and all below it.
    fn below(
        &mut self,
        tree: &NameIndex,
        node: u64,
        level: usize,
        count: usize,
        into: &mut Vec<Vec<u8>>,
    ) -> Known<()> {
        if level == 0 {
            self.records(node, b"BTLF", count, tree.record_bytes, into)?;
            return Ok(());
        }
        let rest = self.records(node, b"BTIN", count, tree.record_bytes, into)?;
        let pointer = self.pointer_bytes(tree, level);
        let pointers = self.read(rest, ((count + 1) * pointer) as u64)?;
        for pointer in pointers.chunks_exact(pointer) {
            let mut pointer = Bytes(pointer);
            let child = pointer.number(self.offset_bytes)?;
            let count = pointer.number(tree.count_bytes)? as usize;
            self.below(tree, child, level - 1, count, into)?;
        }
        Ok(())
    }

    /// The heap IDs of a node's records, each after a hash of four bytes. Returns where they end.
    fn records(
        &mut self,
        node: u64,
        signature: &[u8],
        count: usize,
        record_bytes: usize,
        into: &mut Vec<Vec<u8>>,
    ) -> Known<u64> {
        let node = self.absolute(node)?;
        if self.read(node, 6)?.get(..4) != Some(signature) || record_bytes <= 4 {
            return Err(Unknown);
        }
        let length = (count * record_bytes) as u64;
        let records = self.read(node + 6, length)?;
        into.extend(
            records
                .chunks_exact(record_bytes)
                .map(|record| record[4..].to_vec()),
        );
        Ok(node + 6 + length)
    }

    fn fractal_heap(&mut self, address: u64) -> Known<FractalHeap> {
        let size = 22 + 12 * self.length_bytes + 3 * self.offset_bytes;
        let header = self.read(self.absolute(address)?, size as u64)?;
        let mut header = Bytes(&header);
        if header.take(5)?.get(..4) != Some(b"FRHP") {
            return Err(Unknown);
        }
        header.take(2)?;
        let filters = header.number(2)?;
        header.take(1)?;
        let object_max = header.number(4)?;
        header.take(10 * self.length_bytes + 2 * self.offset_bytes)?;
        let width = header.number(2)?;
        let block_bytes = header.number(self.length_bytes)?;
        let block_bytes_max = header.number(self.length_bytes)?;
        let heap_bits = header.number(2)?;
        header.take(2)?;
        let root = header.number(self.offset_bytes)?;
        let rows = header.number(2)?;
        if filters != 0 || block_bytes == 0 || 64 < heap_bits {
            return Err(Unknown);
        }
        let length_bits = u64::from(u64::BITS - object_max.min(block_bytes_max).leading_zeros());
        let mut heap = FractalHeap {
            offset_bytes: heap_bits.div_ceil(8) as usize,
            length_bytes: length_bits.div_ceil(8) as usize,
            blocks: Vec::new(),
        };
        if rows == 0 {
            heap.blocks.push((0, block_bytes, self.absolute(root)?));
            return Ok(heap);
        }
        let table = Table {
            width,
            block_bytes,
            block_bytes_max,
        };
        self.indirect(&table, root, rows, 0, &mut heap)?;
        Ok(heap)
    }

    /// Adds the blocks below an indirect block that begins at `start` in the heap.
    fn indirect(
        &mut self,
        table: &Table,
        address: u64,
        rows: u64,
        mut start: u64,
        heap: &mut FractalHeap,
    ) -> Known<()> {
        let frame = 5 + self.offset_bytes + heap.offset_bytes;
        let count = rows.checked_mul(table.width).ok_or(Unknown)?;
        let length = count.checked_mul(self.offset_bytes as u64).ok_or(Unknown)?;
        let block = self.read(self.absolute(address)?, length.saturating_add(frame as u64))?;
        let mut block = Bytes(&block);
        if block.take(frame)?.get(..4) != Some(b"FHIB") {
            return Err(Unknown);
        }
        for row in 0..rows {
            let double = u32::try_from(row.saturating_sub(1)).map_err(|_| Unknown)?;
            let size = 1_u64
                .checked_shl(double)
                .and_then(|many| many.checked_mul(table.block_bytes));
            let size = size.ok_or(Unknown)?;
            for _ in 0..table.width {
                let child = block.take(self.offset_bytes)?;
                let is_written = child.iter().any(|&byte| byte != 0xff);
                let child = Bytes(child).number(self.offset_bytes)?;
                if is_written {
                    if size <= table.block_bytes_max {
                        self.spend(size_of::<(u64, u64, u64)>() as u64)?;
                        heap.blocks.push((start, size, self.absolute(child)?));
                    } else {
                        // It must have fewer rows than this block, so the recursion ends.
                        let rows = table.rows_of(size).filter(|inner| *inner < rows);
                        self.indirect(table, child, rows.ok_or(Unknown)?, start, heap)?;
                    }
                }
                start = start.checked_add(size).ok_or(Unknown)?;
            }
        }
        Ok(())
    }

    fn object(&mut self, heap: &FractalHeap, id: &[u8]) -> Known<Vec<u8>> {
        let mut id = Bytes(id);
        // Bits 4 and 5 are the type: only objects in blocks are known, neither huge nor tiny ones.
        if id.byte()? & 0x30 != 0 {
            return Err(Unknown);
        }
        let offset = id.number(heap.offset_bytes)?;
        let length = id.number(heap.length_bytes)?;
        let after = heap.blocks.partition_point(|(start, ..)| *start <= offset);
        let block = after.checked_sub(1).and_then(|at| heap.blocks.get(at));
        let (start, size, address) = block.ok_or(Unknown)?;
        if size
            .checked_sub(offset - start)
            .is_none_or(|rest| rest < length)
        {
            return Err(Unknown);
        }
        self.read(address.checked_add(offset - start).ok_or(Unknown)?, length)
    }

    /// One Link message.
    fn link(&self, body: &[u8]) -> Known<Option<(String, Link)>> {
        let mut body = Bytes(body);
        let (version, flags) = (body.byte()?, body.byte()?);
        if version != 1 {
            return Err(Unknown);
        }
        let kind = if flags & 8 != 0 { body.byte()? } else { 0 };
        if flags & 4 != 0 {
            body.take(8)?;
        }
        if flags & 16 != 0 {
            body.take(1)?;
        }
        let length = body.number(1 << (flags & 3))?;
        let name = text(body.take(usize::try_from(length).map_err(|_| Unknown)?)?);
        let link = match kind {
            0 => Link::Hard(self.absolute(body.number(self.offset_bytes)?)?),
            1 => {
                let length = body.number(2)? as usize;
                Link::Soft(text(body.take(length)?))
            }
            64 => {
                let length = body.number(2)? as usize;
                let value = body.take(length)?;
                let mut parts = value.get(1..).unwrap_or_default().split(|&byte| byte == 0);
                Link::External {
                    file: text(parts.next().unwrap_or_default()),
                    object: text(parts.next().unwrap_or_default()),
                }
            }
            _ => return Ok(None),
        };
        Ok(Some((name, link)))
    }

    /// The entries below a B-tree's node: the links of an old-style group.
    fn symbols(&mut self, tree: u64, names: &[u8], into: &mut Vec<(String, Link)>) -> Known<()> {
        let mut nodes = vec![(self.absolute(tree)?, 0)];
        while let Some((node, depth)) = nodes.pop() {
            let start = self.read(node, 8)?;
            if start.starts_with(b"SNOD") {
                let count = usize::from(u16::from_le_bytes([start[6], start[7]]));
                let entry = self.length_bytes + self.offset_bytes + 24;
                let entries = self.read(node + 8, (count * entry) as u64)?;
                for entry in entries.chunks_exact(entry) {
                    into.push(self.symbol(entry, names)?);
                }
                continue;
            }
            // The limit on depth ends a tree that contains itself.
            if !start.starts_with(b"TREE") || start[4] != 0 || DEPTH_MAX < depth {
                return Err(Unknown);
            }
            let count = usize::from(u16::from_le_bytes([start[6], start[7]]));
            let pair = self.length_bytes + self.offset_bytes;
            let siblings = 2 * self.offset_bytes as u64;
            let pairs = self.read(node + 8 + siblings, (count * pair) as u64)?;
            for pair in pairs.chunks_exact(pair) {
                let child = Bytes(&pair[self.length_bytes..]).number(self.offset_bytes)?;
                nodes.push((self.absolute(child)?, depth + 1));
            }
        }
        Ok(())
    }

    fn symbol(&mut self, entry: &[u8], names: &[u8]) -> Known<(String, Link)> {
        let mut entry = Bytes(entry);
        let name = self.name(names, entry.number(self.length_bytes)?)?;
        let address = entry.number(self.offset_bytes)?;
        let cached = entry.number(4)?;
        entry.take(4)?;
        let link = if cached == CACHED_SOFT_LINK {
            Link::Soft(self.name(names, entry.number(4)?)?)
        } else {
            Link::Hard(self.absolute(address)?)
        };
        Ok((name, link))
    }

    /// A name in a heap. Many entries may share a name, so each use counts as read.
    fn name(&mut self, names: &[u8], at: u64) -> Known<String> {
        let from = usize::try_from(at).ok().and_then(|at| names.get(at..));
        let from = from.ok_or(Unknown)?;
        let from = from.get(..NAME_BYTES_MAX).unwrap_or(from);
        let end = from.iter().position(|&byte| byte == 0).ok_or(Unknown)?;
        self.spend(end as u64)?;
        Ok(text(&from[..end]))
    }

    /// The names of an old-style group.
    fn heap(&mut self, address: u64) -> Known<Vec<u8>> {
        let size = 8 + 2 * self.length_bytes + self.offset_bytes;
        let header = self.read(self.absolute(address)?, size as u64)?;
        let mut header = Bytes(&header);
        if header.take(8)?.get(..4) != Some(b"HEAP") {
            return Err(Unknown);
        }
        let size = header.number(self.length_bytes)?;
        header.take(self.length_bytes)?;
        let data = header.number(self.offset_bytes)?;
        self.read(self.absolute(data)?, size)
    }

    /// The messages of an object's header, continuations included: their kinds and bodies.
    fn messages(&mut self, address: u64) -> Known<Vec<(u64, Vec<u8>)>> {
        let start = self.read(address, 16)?;
        let mut messages = Vec::new();
        let newer = start.starts_with(b"OHDR");
        let mut tracks_order = false;
        let mut blocks = if newer {
            let flags = start[5];
            tracks_order = flags & 4 != 0;
            let mut at = 6;
            at += if flags & 32 != 0 { 16 } else { 0 };
            at += if flags & 16 != 0 { 4 } else { 0 };
            let width = 1 << (flags & 3);
            let size = Bytes(&self.read(address + at, width as u64)?).number(width)?;
            vec![(address + at + width as u64, size)]
        } else if start[0] == 1 {
            let size = Bytes(&start[8..]).number(4)?;
            vec![(address + 16, size)]
        } else {
            return Err(Unknown);
        };
        let mut seen = BTreeSet::new();
        while let Some((at, size)) = blocks.pop() {
            if !seen.insert(at) {
                // The block is its own continuation.
                return Err(Unknown);
            }
            let block = self.read(at, size)?;
            let mut block = Bytes(&block);
            let header = if newer {
                4 + if tracks_order { 2 } else { 0 }
            } else {
                8
            };
            while header <= block.0.len() {
                let mut head = Bytes(block.take(header)?);
                let kind = head.number(if newer { 1 } else { 2 })?;
                let length = head.number(2)? as usize;
                let Ok(body) = block.take(length) else { break };
                if kind == MESSAGE_CONTINUATION {
                    let mut body = Bytes(body);
                    let at = self.absolute(body.number(self.offset_bytes)?)?;
                    let size = body.number(self.length_bytes)?;
                    // A new-style block begins with a signature and ends with a checksum.
                    let (at, size) = if newer {
                        (at.checked_add(4).ok_or(Unknown)?, size.saturating_sub(8))
                    } else {
                        (at, size)
                    };
                    blocks.push((at, size));
                } else if let MESSAGE_SYMBOL_TABLE | MESSAGE_LINK_INFO | MESSAGE_LINK = kind {
                    messages.push((kind, body.to_vec()));
                }
            }
        }
        Ok(messages)
    }

    fn absolute(&self, address: u64) -> Known<u64> {
        address.checked_add(self.base).ok_or(Unknown)
    }

    fn visit(&mut self) -> Known<()> {
        self.visits += 1;
        if VISITS_MAX < self.visits {
            return Err(TooMuch);
        }
        Ok(())
    }

    fn spend(&mut self, bytes: u64) -> Known<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        if BYTES_MAX < self.bytes {
            return Err(TooMuch);
        }
        Ok(())
    }

    fn read(&mut self, at: u64, size: u64) -> Known<Vec<u8>> {
        self.visit()?;
        if BLOCK_BYTES_MAX < size || at.checked_add(size).is_none() {
            return Err(Unknown);
        }
        self.spend(size)?;
        self.file.seek(SeekFrom::Start(at))?;
        let mut bytes = Vec::new();
        (&self.file).take(size).read_to_end(&mut bytes)?;
        if bytes.len() as u64 == size {
            Ok(bytes)
        } else {
            Err(Unknown)
        }
    }
}

enum Followed {
    Hard(String, u64),
    Elsewhere(Target),
    /// Nothing is there. The target of the last soft link on the path, if there was one.
    Nothing(Option<String>),
}

/// Where the objects of a heap are.
struct FractalHeap {
    /// Widths of a heap ID's parts.
    offset_bytes: usize,
    length_bytes: usize,
    /// First offset, size and address of each direct block, in this order.
    blocks: Vec<(u64, u64, u64)>,
}

/// How the blocks of a heap grow: two rows of the smallest size, then the size doubles with each row.
struct Table {
    width: u64,
    block_bytes: u64,
    block_bytes_max: u64,
}

impl Table {
    /// Rows of an indirect block that covers this many bytes.
    fn rows_of(&self, bytes: u64) -> Option<u64> {
        let first_row = self.block_bytes.checked_mul(self.width)?.checked_ilog2()?;
        Some(u64::from(bytes.checked_ilog2()?.checked_sub(first_row)?) + 1)
    }
}

/// Widths of the fields in a version 2 B-tree.
struct NameIndex {
    record_bytes: usize,
    /// Width of the number of records in a child.
    count_bytes: usize,
    /// Width of the number of all records below a child, by the child's level; 0 for leaves, which lack the field.
    total_bytes: Vec<usize>,
}

/// Bytes needed for numbers up to `most`.
fn width_of(most: u64) -> usize {
    (most.max(1).ilog2() / 8 + 1) as usize
}

/// Type of a version 2 B-tree that indexes links by name.
const INDEX_BY_NAME: u8 = 5;
/// Signature, version, type and checksum of a B-tree's node.
const NODE_FRAME_BYTES: usize = 10;
const MESSAGE_LINK_INFO: u64 = 2;
const MESSAGE_LINK: u64 = 6;
const MESSAGE_CONTINUATION: u64 = 16;
const MESSAGE_SYMBOL_TABLE: u64 = 17;
const CACHED_SOFT_LINK: u64 = 2;

/// Bytes that are read from the front.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Known<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Unknown)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Known<u8> {
        Ok(self.take(1)?[0])
    }

    /// A little-endian number of up to 8 bytes.
    fn number(&mut self, width: usize) -> Known<u64> {
        let bytes = self.take(width)?;
        if 8 < bytes.len() {
            return Err(Unknown);
        }
        Ok(bytes
            .iter()
            .rev()
            .fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn links_of(bytes: &[u8]) -> Links {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        Links {
            file,
            base: 0,
            root: 0,
            offset_bytes: 8,
            length_bytes: 8,
            visits: 0,
            bytes: 0,
            known: BTreeMap::new(),
        }
    }

    /// An old-style object header at address 0 with these messages.
    fn header(messages: &[(u16, Vec<u8>)]) -> Vec<u8> {
        let mut block = Vec::new();
        for (kind, body) in messages {
            block.extend(kind.to_le_bytes());
            block.extend((body.len() as u16).to_le_bytes());
            block.extend([0; 4]);
            block.extend(body);
        }
        let mut bytes = vec![1, 0, 0, 0, 0, 0, 0, 0];
        bytes.extend((block.len() as u32).to_le_bytes());
        bytes.extend([0; 4]);
        bytes.extend(block);
        bytes
    }

    fn numbers(numbers: &[u64]) -> Vec<u8> {
        numbers
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    /// An old-style group: a heap of names at 1000, and a node of 100 entries without addresses at 2000.
    fn older_group(names: &[u8]) -> Vec<u8> {
        let mut bytes = header(&[(17, numbers(&[2000, 1000]))]);
        bytes.resize(1000, 0);
        bytes.extend(b"HEAP\0\0\0\0");
        bytes.extend(numbers(&[names.len() as u64, 0, 8000]));
        bytes.resize(2000, 0);
        bytes.extend(b"SNOD\x01\0\x64\0");
        bytes.resize(8000, 0);
        bytes.extend(names);
        bytes
    }

    #[test]
    fn a_header_that_is_its_own_continuation_is_refused() {
        let mut messages = vec![(16, numbers(&[16, 4000]))];
        messages.extend((0..400).map(|_| (6, vec![0; 2])));
        let bytes = header(&messages);
        assert!(4016 < bytes.len());
        assert_eq!(links_of(&bytes).walk().err(), Some(Unknown));
    }

    #[test]
    fn a_block_at_the_largest_address_is_refused() {
        let mut newer = b"OHDR\x02\0\x14".to_vec();
        newer.extend([16, 16, 0, 0]);
        newer.extend(numbers(&[u64::MAX, 100]));
        assert_eq!(links_of(&newer).walk().err(), Some(Unknown));
    }

    #[test]
    fn each_use_of_a_name_counts_toward_the_limit() {
        let mut names = vec![b'a'; 1000];
        names.push(0);
        let mut links = links_of(&older_group(&names));
        assert_eq!(links.links(0).unwrap().unwrap().len(), 100);
        assert!(100_000 < links.bytes, "{}", links.bytes);
        links.known.clear();
        links.bytes = BYTES_MAX - 50_000;
        assert_eq!(links.links(0).err(), Some(TooMuch));
    }

    #[test]
    fn a_name_without_an_end_is_refused() {
        let mut links = links_of(&older_group(&vec![b'a'; 1 << 20]));
        assert_eq!(links.links(0).err(), Some(Unknown));
    }
}
