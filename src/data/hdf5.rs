//! Frames from an HDF5 file: the dataset `frames`, uint8 `[frames, height, width, 3]`, with any chunks and the common
//! filters. If there is none at the top level, each dataset `frames` in a group is a recording. Links within the file are
//! followed ([`links`]).
//!
//! The file is untrusted input. Its claims are checked against its length before anything is allocated, rows are read in
//! bounded pieces, and a panic in the parser is an error of the file.

mod links;

use self::links::{Found, Member, Target};
use super::advice::{Kind, Range};
use super::error::DataError;
use super::names;
use super::source::{Loading, PassedOver, Recording, Source};
use hdf5_pure::{
    ChunkIndex, DType, Dataset, Datatype, DatatypeByteOrder, Error, File, FormatError, Group,
};
use std::collections::BTreeSet;
use std::io::Read;
use std::path::Path;

const NAME: &str = "frames";

/// Deflate expands one byte to at most 1032, lzf to far fewer. A file that claims more is damaged.
const MOST_COMPRESSION: u128 = 1100;

/// A chunk is decoded whole, so this bounds the memory for a damaged chunk shape.
const CHUNK_BYTES_MAX: u64 = 1 << 30;

/// How much is decoded at once.
const PIECE_BYTES: u64 = 64 << 20;

/// How much of an array of another type is read to find the range of its values.
const RANGE_BYTES_MAX: u64 = 1 << 30;

/// Limits on arrays and groups in a walk by the parser.
const MEMBERS_MAX: usize = 10_000;
const GROUPS_MAX: usize = 10_000;

/// How many arrays of other names are considered as possible frames.
const OTHERS_MAX: usize = 100;

/// HDF5's own filters and common registered ones, by their identifiers.
const FILTERS: [(u16, &str); 31] = [
    (4, "szip"),
    (5, "nbit"),
    (305, "lzo"),
    (307, "bzip2"),
    (32001, "blosc"),
    (32002, "mafisc"),
    (32003, "snappy"),
    (32004, "lz4"),
    (32006, "cbf"),
    (32007, "jpeg-xr"),
    (32008, "bitshuffle"),
    (32009, "spdp"),
    (32010, "lpc-rice"),
    (32011, "ccsds-123"),
    (32012, "jpeg-ls"),
    (32013, "zfp"),
    (32014, "fpzip"),
    (32015, "zstd"),
    (32016, "b3d"),
    (32017, "sz"),
    (32018, "fcidecomp"),
    (32019, "jpeg"),
    (32020, "vbz"),
    (32021, "fapec"),
    (32022, "bitgroom"),
    (32023, "granular bitround"),
    (32024, "sz3"),
    (32025, "delta-rice"),
    (32026, "blosc2"),
    (32028, "sperr"),
    (32030, "ffmpeg"),
];

pub(super) fn read(
    source: &Source<'_>,
    file_bytes: u64,
    into: &mut Loading,
) -> Result<(), DataError> {
    let error = match source.guarded(|| read_arrays(source, file_bytes, into)) {
        Err(error @ (DataError::Damaged { .. } | DataError::InUse { .. })) => error,
        other => return other,
    };
    match stored_end(source.path) {
        Some(end) if file_bytes < end => Err(source.damaged(format!(
            "it has {file_bytes} bytes, expected {end}: a copy was interrupted, or the program that wrote it ended early"
        ))),
        Some(_) | None => Err(error),
    }
}

/// Where the file should end, by its superblock.
fn stored_end(path: &Path) -> Option<u64> {
    let mut start = Vec::new();
    let file = std::fs::File::open(path).ok()?;
    file.take(64).read_to_end(&mut start).ok()?;
    let version = *start.strip_prefix(b"\x89HDF\r\n\x1a\n")?.first()?;
    // The end follows the base address and one other address.
    let (width, base) = match version {
        0 => (13, 24),
        1 => (13, 28),
        _ => (9, 12),
    };
    let width = usize::from(*start.get(width)?);
    let from = base + 2 * width;
    let bytes = start.get(from..from + width)?;
    let end = bytes.iter().rev().try_fold(0_u64, |end, &byte| {
        Some(end.checked_mul(256)? + u64::from(byte))
    })?;
    (end != u64::MAX).then_some(end)
}

fn read_arrays(source: &Source<'_>, file_bytes: u64, into: &mut Loading) -> Result<(), DataError> {
    let file =
        File::open_streaming(source.path).map_err(|error| of_parser(source, None, &error))?;
    let place = source.path.display();
    match arrays(source, &file)? {
        Arrays::Top { path, more } => {
            let shown = place.to_string();
            read_array(source, &file, &path, &shown, file_bytes, into)?;
            into.passed_over
                .extend(more.first().map(|first| PassedOver {
                    path: shown,
                    why: "array `frames` in a group, beside the one at the top".to_owned(),
                    count: more.len() as u64,
                    example: first.clone(),
                }));
            Ok(())
        }
        Arrays::InGroups {
            paths,
            not_looked_into,
        } => {
            for array in &paths {
                let shown = format!("{place}:{array}");
                read_array(source, &file, array, &shown, file_bytes, into)?;
            }
            into.passed_over.extend(not_looked_into);
            Ok(())
        }
    }
}

/// Paths of the arrays to read.
enum Arrays {
    Top {
        path: String,
        /// Arrays of the same name in groups, which are not read.
        more: Vec<String>,
    },
    InGroups {
        paths: Vec<String>,
        not_looked_into: Vec<PassedOver>,
    },
}

fn arrays(source: &Source<'_>, file: &File) -> Result<Arrays, DataError> {
    let superblock = file.superblock();
    let mut links =
        links::Links::open(source.path, superblock).map_err(|error| source.io(error))?;
    // The parser may read what this reader of links does not know.
    let at_top = match links.find(NAME) {
        Ok(Some(Found::Hard { path, address })) => Some((path, Some(address))),
        Ok(Some(Found::Elsewhere(target))) => return Err(elsewhere(source, NAME, target)),
        Ok(None) | Err(_) => None,
    };
    let is_array = |path: &str| match file.dataset(path) {
        Ok(_) => Ok(true),
        Err(Error::NotADataset(_) | Error::NotAGroup(_)) => Ok(false),
        Err(Error::Format(FormatError::PathNotFound(_))) => Ok(false),
        Err(error) => Err(of_parser(source, Some(path), &error)),
    };
    let (top, address) = at_top.unwrap_or_else(|| (NAME.to_owned(), None));
    if is_array(&top)? {
        let walked = links.walk().unwrap_or_default();
        let more = walked.members.iter().filter(|member| {
            is_frames(member) && member.address != address && file.dataset(&member.path).is_ok()
        });
        return Ok(Arrays::Top {
            path: top,
            more: more.map(|member| member.path.clone()).collect(),
        });
    }
    let walked = match links.walk() {
        Ok(walked) => walked,
        Err(links::Unread::TooMuch) => {
            return Err(too_much(source, "its groups have too many links"));
        }
        Err(links::Unread::Unknown) => {
            let mut walk = Walk {
                source,
                groups: 0,
                found: Vec::new(),
            };
            walk.group(&file.root(), "", 0)?;
            links::Walked {
                members: walk.found,
                ..links::Walked::default()
            }
        }
    };
    let mut found = Vec::new();
    let mut others = Vec::new();
    let mut seen = BTreeSet::new();
    let not_looked_into = not_looked_into(source, &walked);
    let mut outside = walked.elsewhere;
    // Those named `frames` come first.
    outside.sort_by_key(|(named, _)| !names_frames(named));
    let of_frames = |(named, target): &(String, Target)| {
        names_frames(named) && matches!(target, Target::External { .. })
    };
    for member in walked.members {
        if is_frames(&member) && is_array(&member.path)? {
            if member.address.is_none_or(|address| seen.insert(address)) {
                found.push(member.path);
            }
        } else if others.len() < OTHERS_MAX
            && let Ok(array) = file.dataset(&member.path)
        {
            let sides = array.shape().map_or(0, |shape| shape.len());
            others.push((sides, member.path.trim_start_matches('/').to_owned()));
        }
    }
    let nothing = found.is_empty();
    if let Some(at) = outside
        .iter()
        .position(|link| of_frames(link) || (nothing && matches!(link.1, Target::External { .. })))
    {
        let (named, target) = outside.swap_remove(at);
        return Err(elsewhere(source, named.trim_start_matches('/'), target));
    }
    if nothing {
        // Likely frames come first: those with the most dimensions.
        others.sort_by_key(|(sides, _)| std::cmp::Reverse(*sides));
        let others: Vec<String> = others.into_iter().map(|(_, path)| path).collect();
        let hint = match others.first() {
            Some(other) => format!(
                "rename the array of frames to `frames`, in Python with h5py opened as \"r+\": \
                 `f[\"frames\"] = f[\"{other}\"]`"
            ),
            None => "save the frames as an array `frames`".to_owned(),
        };
        return Err(DataError::NoFrames {
            path: source.path.to_owned(),
            found: others,
            hint,
        });
    }
    names::sort_paths(&mut found);
    Ok(Arrays::InGroups {
        paths: found,
        not_looked_into,
    })
}

fn is_frames(member: &Member) -> bool {
    names_frames(&member.named)
}

fn names_frames(path: &str) -> bool {
    path.rsplit('/').next() == Some(NAME)
}

/// Links and groups that may lead to more recordings.
fn not_looked_into(source: &Source<'_>, walked: &links::Walked) -> Vec<PassedOver> {
    let outside = |wanted: bool| {
        let links = walked.elsewhere.iter();
        let links =
            links.filter(move |(_, target)| matches!(target, Target::External { .. }) == wanted);
        links.map(|(named, _)| named).collect::<Vec<_>>()
    };
    let kinds = [
        (
            "link into another file, which is not followed",
            outside(true),
        ),
        ("link that leads nowhere", outside(false)),
        (
            "group that lies too deep in others",
            walked.too_deep.iter().collect(),
        ),
    ];
    let kinds = kinds.into_iter().filter_map(|(why, paths)| {
        Some(PassedOver {
            path: source.path.display().to_string(),
            why: why.to_owned(),
            count: paths.len() as u64,
            example: (*paths.first()?).clone(),
        })
    });
    kinds.collect()
}

/// The same walk by the parser, which knows only hard links, but all of their forms. It gives no addresses, so a cycle of
/// groups ends at one of the limits.
struct Walk<'a> {
    source: &'a Source<'a>,
    groups: usize,
    found: Vec<Member>,
}

impl Walk<'_> {
    fn group(&mut self, group: &Group, path: &str, depth: usize) -> Result<(), DataError> {
        let broken = |error: Error| of_parser(self.source, None, &error);
        self.groups += 1;
        let (datasets, groups) = (
            group.datasets().map_err(broken)?,
            group.groups().map_err(broken)?,
        );
        if GROUPS_MAX < self.groups || (depth == links::DEPTH_MAX && !groups.is_empty()) {
            return Err(too_much(
                self.source,
                "it has too many groups, or they are nested too deeply",
            ));
        }
        self.found.extend(datasets.into_iter().map(|name| {
            let path = format!("{path}/{name}");
            Member {
                named: path.clone(),
                path,
                address: None,
            }
        }));
        if MEMBERS_MAX < self.found.len() {
            return Err(too_much(self.source, "it has too many arrays in groups"));
        }
        for name in groups {
            let inner = group.group(&name);
            let inner = inner.map_err(|error| of_parser(self.source, None, &error))?;
            self.group(&inner, &format!("{path}/{name}"), depth + 1)?;
        }
        Ok(())
    }
}

fn too_much(source: &Source<'_>, found: &str) -> DataError {
    DataError::TooManyGroups {
        path: source.path.to_owned(),
        found: found.to_owned(),
    }
}

fn elsewhere(source: &Source<'_>, named: &str, target: Target) -> DataError {
    match target {
        Target::External { file, object } => DataError::Elsewhere {
            path: source.path.to_owned(),
            found: format!(
                "`{named}` is an external link to `{object}` in `{file}`, which is not followed"
            ),
            array: match names_frames(named) {
                true => named.to_owned(),
                // Probably a group of the other file.
                false => format!("{named}/{NAME}"),
            },
        },
        Target::Soft(path) => DataError::NoFrames {
            path: source.path.to_owned(),
            found: vec![format!("{named} -> {path}")],
            hint:
                "the link has no target; link the array of frames, or rename that array to `frames`"
                    .to_owned(),
        },
    }
}

/// Converts an error of the parser into one that says what to do.
fn of_parser(source: &Source<'_>, array: Option<&str>, error: &Error) -> DataError {
    let path = source.path.to_owned();
    let array = array.unwrap_or(NAME);
    let away = |found: &str| DataError::Elsewhere {
        path: path.clone(),
        found: found.to_owned(),
        array: array.to_owned(),
    };
    if let Error::Io(error) = error {
        // `io::Error` cannot be cloned.
        let error = error
            .raw_os_error()
            .map_or_else(|| error.kind().into(), std::io::Error::from_raw_os_error);
        return source.io(error);
    }
    if let Error::FileMarkedInUse(_) = error {
        return DataError::InUse { path };
    }
    let Error::Format(format) = error else {
        return source.damaged(error);
    };
    if let FormatError::UnsupportedFilter(id) = format {
        let name = FILTERS.iter().find(|(known, _)| known == id);
        return DataError::Filter {
            path,
            filter: name.map_or_else(|| format!("{id}"), |(id, name)| format!("{name} ({id})")),
            plugin: 255 < *id,
        };
    }
    if let FormatError::InvalidLayoutVersion(version @ 5..) = *format {
        return DataError::NewerHdf5 { path, version };
    }
    if *format == FormatError::UnsupportedVirtualLayout {
        return away(&format!(
            "`{array}` is a virtual dataset, whose frames are in other files, which are not read"
        ));
    }
    if *format == FormatError::UnsupportedExternalStorage {
        return away(&format!(
            "`{array}` has its frames in external files, which are not read"
        ));
    }
    source.damaged(error)
}

fn read_array(
    source: &Source<'_>,
    file: &File,
    path: &str,
    shown: &str,
    file_bytes: u64,
    into: &mut Loading,
) -> Result<(), DataError> {
    let broken = |error: Error| of_parser(source, Some(path), &error);
    let dataset = file.dataset(path).map_err(broken)?;
    let mut shape = dataset.shape().map_err(broken)?;
    let found = dataset.dtype().map_err(broken)?;
    let mut kind = kind(&found);
    if let DType::Array(element, sides) = &found
        && **element == DType::U8
    {
        // An array of arrays, which h5py shows as one array.
        shape.extend(sides.iter().map(|&side| u64::from(side)));
        kind = Kind::Uint8;
    }
    let most = u128::from(file_bytes) * MOST_COMPRESSION;
    if kind != Kind::Uint8 {
        check_chunks(source, &dataset, file_bytes)?;
        let range = range(source, &dataset, &kind, &shape, most);
        return Err(source.wrong_type(&name(&found), &kind, &shape, range));
    }
    if let Ok(Some(ChunkIndex::BTreeV2)) = dataset.chunk_index() {
        return Err(DataError::Elsewhere {
            path: source.path.to_owned(),
            found: format!(
                "`{path}` can grow along several axes (version 2 B-tree), which tinygate cannot read"
            ),
            array: path.trim_start_matches('/').to_owned(),
        });
    }
    let count = source.admit(&shape, file_bytes, most, &mut into.bytes)?;
    check_chunks(source, &dataset, file_bytes)?;
    let row_bytes = source.frame_bytes();
    let rows = rows_at_once(source, &dataset, row_bytes, 1, most)?;
    let mut row = 0;
    while row < count {
        let wanted = rows.min(count - row);
        let piece = dataset.read_raw_rows(row, wanted).map_err(broken)?;
        if piece.len() as u64 != wanted * row_bytes {
            return Err(source.damaged(format!(
                "the {wanted} frames from {row} on have {} bytes, expected {}",
                piece.len(),
                wanted * row_bytes
            )));
        }
        into.bytes.extend_from_slice(&piece);
        row += wanted;
    }
    into.passed_over
        .extend(never_written(&dataset, &shape, shown));
    into.recordings.push(Recording {
        path: shown.to_owned(),
        frames: count as usize,
        first: None,
        last: None,
        missing: 0,
    });
    Ok(())
}

/// Chunks that were never written and read as the fill value, if the index of chunks can be listed.
fn never_written(dataset: &Dataset, shape: &[u64], shown: &str) -> Option<PassedOver> {
    let sides = dataset.chunk_shape().ok()??;
    let stored = dataset.chunks().ok()?;
    let wanted = shape
        .iter()
        .zip(&sides)
        .try_fold(1_u64, |product, (&side, &chunk)| {
            product.checked_mul(side.div_ceil(chunk.max(1)))
        })?;
    let missing = wanted.checked_sub(stored.len() as u64)?;
    if missing == 0 {
        return None;
    }
    let rows = sides.first().copied()?.max(1);
    let written: BTreeSet<u64> = stored
        .iter()
        .filter_map(|chunk| chunk.offset.first().copied())
        .collect();
    let first = (0..shape.first()?.div_ceil(rows))
        .map(|chunk| chunk * rows)
        .find(|row| !written.contains(row));
    Some(PassedOver {
        path: shown.to_owned(),
        why: "chunk never written, reads as the fill value".to_owned(),
        count: missing,
        example: first.map_or_else(|| NAME.to_owned(), |row| format!("from frame {row} on")),
    })
}

fn kind(found: &DType) -> Kind {
    let integer = |bits, signed| Kind::Integer { bits, signed };
    match found {
        DType::U8 => Kind::Uint8,
        DType::U16 => integer(16, false),
        DType::U32 => integer(32, false),
        DType::U64 => integer(64, false),
        DType::I8 => integer(8, true),
        DType::I16 => integer(16, true),
        DType::I32 => integer(32, true),
        DType::I64 => integer(64, true),
        DType::F32 | DType::F64 => Kind::Float,
        DType::Enum(names) if names.len() == 2 && names.iter().any(|name| name == "TRUE") => {
            Kind::Bool
        }
        DType::String | DType::VariableLengthString => Kind::Text,
        DType::Compound(fields) => {
            Kind::Record(fields.iter().map(|(name, _)| name.clone()).collect())
        }
        DType::Other(datatype) => match **datatype {
            Datatype::FloatingPoint { .. } => Kind::Float,
            Datatype::FixedPoint { size, .. } => integer(u64::from(size) * 8, true),
            Datatype::VariableLength { .. } => Kind::Lists,
            Datatype::Opaque { .. } => Kind::Text,
            Datatype::Time { .. }
            | Datatype::String { .. }
            | Datatype::BitField { .. }
            | Datatype::Compound { .. }
            | Datatype::Reference { .. }
            | Datatype::Enumeration { .. }
            | Datatype::Array { .. }
            | _ => Kind::Other,
        },
        DType::Enum(_) | DType::Array(..) | DType::ObjectReference | _ => Kind::Other,
    }
}

/// The usual name of a type.
fn name(found: &DType) -> String {
    if let DType::Other(datatype) = found
        && let Datatype::FloatingPoint { size, .. } = **datatype
    {
        return format!("f{}", u64::from(size) * 8);
    }
    found.to_string()
}

/// The range of the values, if they can be read.
fn range(
    source: &Source<'_>,
    dataset: &Dataset,
    kind: &Kind,
    shape: &[u64],
    most: u128,
) -> Option<Range> {
    if !matches!(kind, Kind::Float | Kind::Integer { .. }) {
        return None;
    }
    let (&count, row) = shape.split_first()?;
    let element = dataset.element_size().ok()?;
    let row_bytes = row
        .iter()
        .try_fold(element, |product, &side| product.checked_mul(side))?;
    let claimed = u128::from(row_bytes) * u128::from(count);
    if row_bytes == 0 || most < claimed || PIECE_BYTES * 4 < row_bytes {
        return None;
    }
    let rows = rows_at_once(source, dataset, row_bytes, element, most).ok()?;
    let datatype = dataset.datatype().ok()?;
    let (Datatype::FixedPoint {
        byte_order: order, ..
    }
    | Datatype::FloatingPoint {
        byte_order: order, ..
    }) = datatype
    else {
        return None;
    };
    let big = order == DatatypeByteOrder::BigEndian;
    let mut range = Range::NONE;
    let mut row = 0;
    while row < count {
        if RANGE_BYTES_MAX / row_bytes <= row {
            range.partial = true;
            break;
        }
        let wanted = rows.min(count - row);
        let mut piece = dataset.read_raw_rows(row, wanted).ok()?;
        range.add_all(kind, usize::try_from(element).ok()?, big, &mut piece)?;
        row += wanted;
    }
    Some(range)
}

/// Checks that every stored chunk is within the file, because the parser allocates memory before it reads. For an index
/// whose chunks cannot be listed this is left to the parser.
fn check_chunks(source: &Source<'_>, dataset: &Dataset, file_bytes: u64) -> Result<(), DataError> {
    for chunk in dataset.chunks().unwrap_or_default() {
        let end = chunk.address.checked_add(chunk.storage_size);
        if end.is_none_or(|end| file_bytes < end) {
            return Err(source.damaged(format!(
                "a chunk of {} bytes at byte {} reaches past the file's end at {file_bytes}",
                chunk.storage_size, chunk.address
            )));
        }
    }
    Ok(())
}

/// Rows of a piece: if possible a whole number of chunks along the first dimension, so that none is decoded twice.
fn rows_at_once(
    source: &Source<'_>,
    dataset: &Dataset,
    row_bytes: u64,
    element_bytes: u64,
    most: u128,
) -> Result<u64, DataError> {
    let rows = (PIECE_BYTES / row_bytes.max(1)).max(1);
    let shape = dataset.chunk_shape();
    let Some(chunk) = shape.map_err(|error| of_parser(source, None, &error))? else {
        return Ok(rows);
    };
    let chunk_bytes = chunk
        .iter()
        .try_fold(element_bytes, |product, &side| product.checked_mul(side));
    let limit = most.min(u128::from(CHUNK_BYTES_MAX));
    if chunk_bytes.is_none_or(|bytes| bytes == 0 || limit < u128::from(bytes)) {
        return Err(source.damaged(format!(
            "its chunks have shape {chunk:?}, expected at most {limit} bytes each"
        )));
    }
    let chunk_rows = chunk.first().copied().unwrap_or(1).max(1);
    Ok((rows / chunk_rows).max(1).saturating_mul(chunk_rows))
}
