//! A restricted reader of the pickle language: protocol 2, the default of `torch.save`,
//! and 3 to 5. It never looks up a global: names on the allow-list are implemented here,
//! in Rust, and every other name becomes an opaque value. So do tensors without plain
//! elements (sparse, quantized, complex, ...), since a file may have some that are not
//! needed.
//!
//! It runs in two passes. The machine here executes the opcodes over an [`Arena`]. Then
//! [`unfold`] converts the arena to a plain tree.
//!
//! Invariant: each opcode creates at most one node of a fixed size, so the arena is
//! bounded by the pickle's length.

use std::collections::{BTreeMap, BTreeSet};

use super::archive::Archive;
use super::arena::{Arena, Id, Node, Storage, TensorNode};
use super::error::ReadError;
use super::global::Global;
use super::numpy::{self, Scalar};
use super::unfold::unfold;
use super::value::{Loaded, bytes_of};
use super::view::View;

/// A pickle has names and numbers, but no tensor data: 4 MiB describe about 50,000
/// tensors. Arena and tree together were measured to take up to 160 times as much.
const PICKLE_BYTES_MAX: usize = 4 << 20;
/// PyTorch's keys are numbers: `data/0`, `data/1`.
const STORAGE_KEY_BYTES_MAX: usize = 64;

/// Reads `data.pkl` of `archive`, from a file of `file_bytes`.
pub fn unpickle(archive: &Archive<'_>, file_bytes: usize) -> Result<Loaded, ReadError> {
    let pickle = archive.required("data.pkl")?;
    if pickle.len() > PICKLE_BYTES_MAX {
        let limit = PICKLE_BYTES_MAX as u64;
        return Err(ReadError::Limit {
            what: "the size of the pickle in bytes",
            limit,
        });
    }
    let mut storages = Storages::Archive(archive);
    let part = Part::read(pickle, 0, &mut storages, file_bytes)?;
    if part.end != pickle.len() {
        let offset = part.end;
        let what = "bytes follow its end";
        return Err(ReadError::Pickle { offset, what });
    }
    Ok(part.loaded)
}

/// One pickle of a file, and where it ends.
pub struct Part {
    pub loaded: Loaded,
    pub end: usize,
}

impl Part {
    /// Reads the pickle that begins at `at`, in a file of `file_bytes`.
    pub fn read<'a>(
        bytes: &'a [u8],
        at: usize,
        storages: &mut Storages<'_, 'a>,
        file_bytes: usize,
    ) -> Result<Part, ReadError> {
        let mut machine = Machine {
            storages,
            input: Input { bytes, at },
            start: at,
            nodes: Arena::default(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: BTreeMap::new(),
            foreign: BTreeSet::new(),
        };
        let root = machine.run()?;
        let end = machine.input.at;
        let value = unfold(&machine.nodes, root, end - at, file_bytes)?;
        let foreign = machine.foreign.into_iter().collect();
        let loaded = Loaded { value, foreign };
        Ok(Part { loaded, end })
    }
}

/// Where to find the bytes of tensors.
pub enum Storages<'m, 'a> {
    /// In records next to the pickle.
    Archive(&'m Archive<'a>),
    /// Not known yet: collects the storages that the pickle refers to, with the size of an
    /// element; each tensor becomes `None`.
    Wanted(BTreeMap<String, usize>),
    /// By their keys.
    Known(&'m BTreeMap<String, &'a [u8]>),
}

/// The fault of a pickle that ends before its last value is complete.
pub const ENDS_EARLY: &str = "it ends too early";

/// The pickle's bytes, read from front to back.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn fault(&self, what: &'static str) -> ReadError {
        let offset = self.at;
        ReadError::Pickle { offset, what }
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], ReadError> {
        let end = self.at.checked_add(count);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| self.fault(ENDS_EARLY))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ReadError> {
        let taken = self.take(N)?.first_chunk::<N>().copied();
        taken.ok_or_else(|| self.fault(ENDS_EARLY))
    }

    fn byte(&mut self) -> Result<u8, ReadError> {
        self.array::<1>().map(|[byte]| byte)
    }

    /// A length in eight bytes.
    fn length(&mut self) -> Result<usize, ReadError> {
        let length = self.array().map(u64::from_le_bytes)?;
        usize::try_from(length).map_err(|_| self.fault(ENDS_EARLY))
    }

    fn u32(&mut self) -> Result<u32, ReadError> {
        self.array().map(u32::from_le_bytes)
    }

    fn text(&mut self, count: usize) -> Result<&'a str, ReadError> {
        let bytes = self.take(count)?;
        std::str::from_utf8(bytes).map_err(|_| self.fault("a string is not UTF-8"))
    }

    /// The text up to a line feed, which is skipped.
    fn line(&mut self) -> Result<&'a str, ReadError> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|&byte| byte == b'\n');
        let length = length.ok_or_else(|| self.fault("a name does not end"))?;
        let line = self.text(length)?;
        self.at += 1;
        Ok(line)
    }
}

/// The opcodes of protocols 2 to 5, named as in Python's `pickletools`.
mod op {
    pub const MARK: u8 = b'(';
    pub const STOP: u8 = b'.';
    pub const POP: u8 = b'0';
    pub const POP_MARK: u8 = b'1';
    pub const DUP: u8 = b'2';
    pub const BINFLOAT: u8 = b'G';
    pub const BININT: u8 = b'J';
    pub const BININT1: u8 = b'K';
    pub const BININT2: u8 = b'M';
    pub const NONE: u8 = b'N';
    pub const BINPERSID: u8 = b'Q';
    pub const REDUCE: u8 = b'R';
    pub const BINUNICODE: u8 = b'X';
    pub const BINBYTES: u8 = b'B';
    pub const SHORT_BINBYTES: u8 = b'C';
    pub const EMPTY_LIST: u8 = b']';
    pub const APPEND: u8 = b'a';
    pub const BUILD: u8 = b'b';
    pub const GLOBAL: u8 = b'c';
    pub const APPENDS: u8 = b'e';
    pub const BINGET: u8 = b'h';
    pub const LONG_BINGET: u8 = b'j';
    pub const BINPUT: u8 = b'q';
    pub const LONG_BINPUT: u8 = b'r';
    pub const SETITEM: u8 = b's';
    pub const TUPLE: u8 = b't';
    pub const SETITEMS: u8 = b'u';
    pub const EMPTY_TUPLE: u8 = b')';
    pub const EMPTY_DICT: u8 = b'}';
    pub const PROTO: u8 = 0x80;
    pub const NEWOBJ: u8 = 0x81;
    pub const TUPLE1: u8 = 0x85;
    pub const TUPLE2: u8 = 0x86;
    pub const TUPLE3: u8 = 0x87;
    pub const NEWTRUE: u8 = 0x88;
    pub const NEWFALSE: u8 = 0x89;
    pub const LONG1: u8 = 0x8a;
    pub const LONG4: u8 = 0x8b;
    pub const SHORT_BINUNICODE: u8 = 0x8c;
    pub const BINUNICODE8: u8 = 0x8d;
    pub const BINBYTES8: u8 = 0x8e;
    pub const EMPTY_SET: u8 = 0x8f;
    pub const ADDITEMS: u8 = 0x90;
    pub const FROZENSET: u8 = 0x91;
    pub const NEWOBJ_EX: u8 = 0x92;
    pub const STACK_GLOBAL: u8 = 0x93;
    pub const MEMOIZE: u8 = 0x94;
    pub const FRAME: u8 = 0x95;
    pub const BYTEARRAY8: u8 = 0x96;
}

struct Machine<'s, 'm, 'a> {
    storages: &'s mut Storages<'m, 'a>,
    input: Input<'a>,
    /// Where the pickle begins.
    start: usize,
    nodes: Arena<'a>,
    stack: Vec<Id>,
    /// Heights of the stack at which a `MARK` was set.
    marks: Vec<usize>,
    memo: BTreeMap<u32, Id>,
    foreign: BTreeSet<String>,
}

impl<'a> Machine<'_, '_, 'a> {
    /// Executes up to `STOP` and returns the root.
    fn run(&mut self) -> Result<Id, ReadError> {
        if self.input.byte()? != op::PROTO {
            return Err(ReadError::unsupported(
                "a pickle of protocol 0 or 1, expected 2 to 5",
            ));
        }
        let protocol = self.input.byte()?;
        if !(2..=5).contains(&protocol) {
            return Err(ReadError::unsupported(format!(
                "a pickle of protocol {protocol}, expected 2 to 5"
            )));
        }
        loop {
            if self.input.at - self.start > PICKLE_BYTES_MAX {
                return Err(ReadError::Limit {
                    what: "the size of the pickle in bytes",
                    limit: PICKLE_BYTES_MAX as u64,
                });
            }
            let offset = self.input.at;
            let opcode = self.input.byte()?;
            if opcode == op::STOP {
                break;
            }
            self.step(opcode, offset)?;
        }
        let root = self.pop()?;
        if !self.stack.is_empty() || !self.marks.is_empty() {
            return Err(self.input.fault("it stops with values left over"));
        }
        Ok(root)
    }

    fn step(&mut self, opcode: u8, offset: usize) -> Result<(), ReadError> {
        match opcode {
            op::MARK => {
                self.marks.push(self.stack.len());
                Ok(())
            }
            op::POP => self.pop().map(drop),
            op::POP_MARK => self.pop_to_mark().map(drop),
            op::DUP => {
                let top = self.top()?;
                self.stack.push(top);
                Ok(())
            }
            op::NONE => self.push(Node::None),
            op::NEWTRUE => self.push(Node::Bool(true)),
            op::NEWFALSE => self.push(Node::Bool(false)),
            op::BININT | op::BININT1 | op::BININT2 | op::LONG1 | op::LONG4 => self.integer(opcode),
            op::BINFLOAT => {
                let value = f64::from_be_bytes(self.input.array()?);
                self.push(Node::Float(value))
            }
            op::BINUNICODE | op::SHORT_BINUNICODE | op::BINUNICODE8 => {
                let length = match opcode {
                    op::BINUNICODE => self.input.u32()? as usize,
                    op::SHORT_BINUNICODE => usize::from(self.input.byte()?),
                    _ => self.input.length()?,
                };
                let text = self.input.text(length)?;
                self.push(Node::Str(text))
            }
            op::BINBYTES | op::SHORT_BINBYTES | op::BINBYTES8 | op::BYTEARRAY8 => {
                let length = match opcode {
                    op::BINBYTES => self.input.u32()? as usize,
                    op::SHORT_BINBYTES => usize::from(self.input.byte()?),
                    _ => self.input.length()?,
                };
                let bytes = self.input.take(length)?;
                self.push(Node::Bytes(bytes))
            }
            op::EMPTY_SET => self.push(Node::Made(Global::Builtin("set"))),
            op::ADDITEMS => {
                self.pop_to_mark()?;
                self.top().map(drop)
            }
            op::FROZENSET => {
                self.pop_to_mark()?;
                self.push(Node::Made(Global::Builtin("frozenset")))
            }
            // Only a hint for how much to read at once.
            op::FRAME => self.input.length().map(drop),
            op::EMPTY_LIST => self.push(Node::List(Vec::new())),
            op::EMPTY_DICT => self.push(Node::Dict {
                ordered: false,
                entries: Vec::new(),
            }),
            op::EMPTY_TUPLE => self.tuple(0),
            op::TUPLE1 => self.tuple(1),
            op::TUPLE2 => self.tuple(2),
            op::TUPLE3 => self.tuple(3),
            op::TUPLE => {
                let items = self.pop_to_mark()?;
                self.push(Node::Tuple(items))
            }
            op::APPEND => {
                let item = self.pop()?;
                self.append(vec![item])
            }
            op::APPENDS => {
                let items = self.pop_to_mark()?;
                self.append(items)
            }
            op::SETITEM => {
                let value = self.pop()?;
                let key = self.pop()?;
                self.set_items(&[key, value])
            }
            op::SETITEMS => {
                let items = self.pop_to_mark()?;
                self.set_items(&items)
            }
            op::BINPUT | op::LONG_BINPUT | op::BINGET | op::LONG_BINGET => self.memo(opcode),
            op::MEMOIZE => {
                let top = self.top()?;
                let index = u32::try_from(self.memo.len());
                let index = index.map_err(|_| self.input.fault("it stores too many values"))?;
                self.memo.insert(index, top);
                Ok(())
            }
            op::GLOBAL => {
                let module = self.input.line()?;
                let name = self.input.line()?;
                self.global(module, name)
            }
            op::STACK_GLOBAL => {
                let (name, module) = (self.pop()?, self.pop()?);
                let (Node::Str(module), Node::Str(name)) = (self.node(module), self.node(name))
                else {
                    return Err(self.input.fault("a global has no name"));
                };
                self.global(module, name)
            }
            op::BINPERSID => self.storage(),
            op::REDUCE | op::NEWOBJ => self.reduce(),
            op::NEWOBJ_EX => {
                self.pop()?; // arguments by name
                self.reduce()
            }
            op::BUILD => self.build_state(),
            _ => Err(ReadError::unsupported(format!(
                "pickle opcode {opcode:#04x} at byte {offset}"
            ))),
        }
    }

    fn push(&mut self, node: Node<'a>) -> Result<(), ReadError> {
        // The pickle is shorter than 2^32 bytes, and each opcode pushes once.
        let id = self.nodes.push(node);
        let id = id.ok_or_else(|| self.input.fault("it makes too many values"))?;
        self.stack.push(id);
        Ok(())
    }

    /// The stack may not be popped below this height.
    fn floor(&self) -> usize {
        self.marks.last().copied().unwrap_or(0)
    }

    fn top(&self) -> Result<Id, ReadError> {
        let above = self.stack.get(self.floor()..);
        let top = above.and_then(|above| above.last()).copied();
        top.ok_or_else(|| self.input.fault("it takes a value from an empty stack"))
    }

    fn pop(&mut self) -> Result<Id, ReadError> {
        let top = self.top()?;
        self.stack.pop();
        Ok(top)
    }

    fn pop_to_mark(&mut self) -> Result<Vec<Id>, ReadError> {
        let mark = self.marks.pop();
        let mark = mark.ok_or_else(|| self.input.fault("a mark is missing"))?;
        // `pop` stops at the last mark, so the stack is at least as high.
        Ok(self.stack.split_off(mark.min(self.stack.len())))
    }

    fn node(&self, id: Id) -> &Node<'a> {
        self.nodes.get(id)
    }

    fn integer(&mut self, opcode: u8) -> Result<(), ReadError> {
        let value = match opcode {
            op::BININT => i64::from(i32::from_le_bytes(self.input.array()?)),
            op::BININT1 => i64::from(self.input.byte()?),
            op::BININT2 => i64::from(u16::from_le_bytes(self.input.array()?)),
            _ => {
                let length = if opcode == op::LONG4 {
                    self.input.u32()? as usize
                } else {
                    usize::from(self.input.byte()?)
                };
                let bytes = self.input.take(length)?;
                if length > 8 {
                    return self.push(Node::WideInt);
                }
                // Two's complement: the sign of the last byte fills the rest.
                let negative = bytes.last().is_some_and(|&byte| byte >= 0x80);
                let mut wide = [if negative { 0xFF } else { 0 }; 8];
                wide.iter_mut()
                    .zip(bytes)
                    .for_each(|(to, from)| *to = *from);
                i64::from_le_bytes(wide)
            }
        };
        self.push(Node::Int(value))
    }

    fn tuple(&mut self, count: usize) -> Result<(), ReadError> {
        let mut items = Vec::with_capacity(count);
        for _ in 0..count {
            items.push(self.pop()?);
        }
        items.reverse();
        self.push(Node::Tuple(items))
    }

    /// Appends to the list at the top. Items of a foreign list are dropped.
    fn append(&mut self, items: Vec<Id>) -> Result<(), ReadError> {
        let target = self.top()?;
        if let Some(Node::List(list)) = self.nodes.get_mut(target) {
            list.extend(items);
            return Ok(());
        }
        if let Node::Made(_) | Node::Object(..) = self.node(target) {
            return Ok(());
        }
        Err(self.input.fault("it appends to a value that is not a list"))
    }

    /// Fills the dict at the top. Items of a foreign dict are dropped.
    fn set_items(&mut self, items: &[Id]) -> Result<(), ReadError> {
        let (pairs, rest) = items.as_chunks::<2>();
        let target = self.top()?;
        if !rest.is_empty() {
            return Err(self.input.fault("a key has no value"));
        }
        if let Some(Node::Dict { entries, .. }) = self.nodes.get_mut(target) {
            entries.extend(pairs.iter().map(|&[key, value]| (key, value)));
            return Ok(());
        }
        if let Node::Made(_) | Node::Object(..) = self.node(target) {
            return Ok(());
        }
        Err(self
            .input
            .fault("it sets items of a value that is not a dict"))
    }

    fn memo(&mut self, opcode: u8) -> Result<(), ReadError> {
        let short = opcode == op::BINPUT || opcode == op::BINGET;
        let index = if short {
            u32::from(self.input.byte()?)
        } else {
            self.input.u32()?
        };
        if opcode == op::BINPUT || opcode == op::LONG_BINPUT {
            let top = self.top()?;
            self.memo.insert(index, top);
            return Ok(());
        }
        let id = self.memo.get(&index).copied();
        let id = id.ok_or_else(|| self.input.fault("it recalls a value it never stored"))?;
        self.stack.push(id);
        Ok(())
    }

    fn global(&mut self, module: &'a str, name: &'a str) -> Result<(), ReadError> {
        let global = Global::resolve(module, name);
        if let Global::Foreign(..) = global {
            self.foreign.insert(global.class());
        }
        self.push(Node::Global(global))
    }

    /// `("storage", class, key, location, elements)`: the record `data/<key>`.
    /// The location (`cpu`, `cuda:0`) is ignored. The old format has a sixth part, for a
    /// view of another storage.
    fn storage(&mut self) -> Result<(), ReadError> {
        let id = self.pop()?;
        let Node::Tuple(parts) = self.node(id) else {
            return Err(self.input.fault("a persistent id is not a tuple"));
        };
        let (tag, class, key, elements) = match parts.as_slice() {
            // In the old format the source of a whole module follows it.
            [tag, object, ..] if matches!(self.node(*tag), Node::Str("module")) => {
                self.stack.push(*object);
                return Ok(());
            }
            [tag, class, key, _location, elements] => (tag, class, key, elements),
            [tag, class, key, _location, elements, view] => {
                if !matches!(self.node(*view), Node::None) {
                    return Err(ReadError::unsupported(
                        "a storage that is a view of another",
                    ));
                }
                (tag, class, key, elements)
            }
            _ => return Err(self.input.fault("a persistent id does not have five parts")),
        };
        let (Node::Str("storage"), Node::Global(class), Node::Str(key), Node::Int(elements)) = (
            self.node(*tag),
            self.node(*class),
            self.node(*key),
            self.node(*elements),
        ) else {
            return Err(self
                .input
                .fault("a persistent id does not refer to a storage"));
        };
        let (class, key, elements) = (*class, *key, *elements);
        if key.len() > STORAGE_KEY_BYTES_MAX {
            return Err(self.input.fault("a storage's name is too long"));
        }
        if let Storages::Wanted(wanted) = &mut self.storages {
            let width = class.width();
            let width = width.ok_or_else(|| {
                ReadError::unsupported(format!("a {} in the old format", class.class()))
            })?;
            if *wanted.entry(key.to_owned()).or_insert(width) != width {
                return Err(self.input.fault("a storage has two types"));
            }
        }
        if let Global::Unusual(_) = class {
            return self.push(Node::Made(class));
        }
        let Global::Storage(dtype) = class else {
            return Err(self
                .input
                .fault("a persistent id does not refer to a storage"));
        };
        let record = format!("data/{key}");
        let bytes = match self.storages {
            Storages::Archive(archive) => archive.required(&record)?,
            Storages::Known(known) => {
                let bytes = known.get(key).copied();
                bytes.ok_or(ReadError::MissingRecord {
                    record: record.clone(),
                })?
            }
            Storages::Wanted(_) => {
                return self.push(Node::Storage(Storage { dtype, bytes: &[] }));
            }
        };
        let size = usize::try_from(elements).ok();
        let size = size.and_then(|elements| bytes_of(dtype, &[elements]));
        if size != Some(bytes.len()) {
            return Err(ReadError::Tensor {
                what: format!(
                    "record `{record}` has {} bytes, and the pickle says {elements} elements of {}",
                    bytes.len(),
                    dtype.name()
                ),
            });
        }
        self.push(Node::Storage(Storage { dtype, bytes }))
    }

    /// `REDUCE` calls a global with a tuple; `NEWOBJ` creates an instance of it.
    fn reduce(&mut self) -> Result<(), ReadError> {
        let arguments = self.pop()?;
        let callee = self.pop()?;
        let Node::Tuple(arguments) = self.node(arguments) else {
            return Err(self.input.fault("a call has no tuple of arguments"));
        };
        let (Node::Global(callee) | Node::Made(callee)) = self.node(callee) else {
            return Err(self.input.fault("it calls a value that is not a global"));
        };
        let (callee, first) = (*callee, arguments.first().copied());
        let fault = |what| Err(self.input.fault(what));
        let made = match callee {
            Global::OrderedDict if arguments.is_empty() => Node::Dict {
                ordered: true,
                entries: Vec::new(),
            },
            Global::OrderedDict => return fault("an `OrderedDict` is created with arguments"),
            Global::DefaultDict => Node::Dict {
                ordered: false,
                entries: Vec::new(),
            },
            Global::RebuildTensor => self.tensor(arguments)?,
            Global::RebuildUntyped => Node::Made(self.untyped(arguments)),
            Global::RebuildFromType => self.retyped(arguments)?,
            // A parameter is its data, and a `torch.Size` is its tuple.
            Global::RebuildParameter | Global::RebuildWithState => {
                return self.same(first, |n| {
                    matches!(
                        n,
                        Node::Tensor(_) | Node::Made(Global::Unusual(_)) | Node::None
                    )
                });
            }
            Global::Size => return self.same(first, |n| matches!(n, Node::Tuple(_))),
            Global::Encode => match first.map(|text| self.node(text)) {
                Some(Node::Str(text)) => Node::Latin1(text),
                _ => return fault("bytes are created from a value that is not text"),
            },
            Global::NumpyDType => match first.map(|code| self.node(code)) {
                Some(Node::Str(code)) => Node::NumpyDType(code),
                _ => Node::Made(callee),
            },
            Global::NumpyScalar => self.numpy_scalar(arguments),
            Global::Device | Global::Unusual(_) | Global::Builtin(_) | Global::Foreign(..) => {
                Node::Made(callee)
            }
            Global::DTypeName(_) | Global::Storage(_) => {
                return fault("it calls a global that cannot be called");
            }
        };
        self.push(made)
    }

    /// A call whose result is its first argument.
    fn same(&mut self, id: Option<Id>, fits: fn(&Node<'a>) -> bool) -> Result<(), ReadError> {
        let id = id.filter(|&id| fits(self.node(id)));
        let id = id.ok_or_else(|| self.input.fault("a call has the wrong first argument"))?;
        self.stack.push(id);
        Ok(())
    }

    /// `(storage, offset, size, stride, requires_grad, backward_hooks)`.
    fn tensor(&self, arguments: &[Id]) -> Result<Node<'a>, ReadError> {
        let (storage, offset, shape, strides) = match arguments {
            [storage, offset, shape, strides, _requires_grad, _hooks] => {
                (storage, offset, shape, strides)
            }
            // With metadata: its elements are conjugated or negated in the storage.
            [_, _, _, _, _, _, _] => {
                return Ok(Node::Made(Global::Unusual("lazily conjugated or negated")));
            }
            _ => return Err(self.input.fault("a tensor has the wrong arguments")),
        };
        let (storage, Some(offset)) = (self.node(*storage), self.nodes.size(*offset)) else {
            return Err(self.input.fault("a tensor has no storage or no offset"));
        };
        if let Node::Made(unusual @ Global::Unusual(_)) = storage {
            return Ok(Node::Made(*unusual));
        }
        let &Node::Storage(storage) = storage else {
            return Err(self.input.fault("a tensor has no storage or no offset"));
        };
        if matches!(self.storages, Storages::Wanted(_)) {
            return Ok(Node::None);
        }
        let tensor = TensorNode {
            storage,
            offset,
            shape: *shape,
            strides: *strides,
        };
        View::new(&self.nodes, &tensor)?.check()?;
        Ok(Node::Tensor(tensor))
    }

    /// `(storage, offset, size, stride, requires_grad, backward_hooks, dtype, ..)`.
    fn untyped(&self, arguments: &[Id]) -> Global<'a> {
        match arguments.get(6).map(|&dtype| self.node(dtype)) {
            Some(Node::Global(Global::DTypeName(dtype))) => Global::Unusual(dtype),
            _ => Global::Unusual("untyped"),
        }
    }

    /// `(function, type, arguments, state)`: a tensor with attributes, or one of a
    /// subclass, which becomes an opaque value.
    fn retyped(&self, arguments: &[Id]) -> Result<Node<'a>, ReadError> {
        let [function, class, arguments, ..] = arguments else {
            return Err(self.input.fault("a tensor has the wrong arguments"));
        };
        match (
            self.node(*function),
            self.node(*class),
            self.node(*arguments),
        ) {
            (
                Node::Global(Global::RebuildTensor),
                Node::Global(Global::DTypeName("Tensor")),
                Node::Tuple(arguments),
            ) => self.tensor(arguments),
            _ => Ok(Node::Made(Global::Unusual("subclassed"))),
        }
    }

    /// `(dtype, bytes)`: a number, or an opaque value for other types.
    fn numpy_scalar(&self, arguments: &[Id]) -> Node<'a> {
        let scalar = match arguments {
            [dtype, bytes] => match (self.node(*dtype), self.node(*bytes)) {
                (Node::NumpyDType(code), Node::Bytes(bytes)) => numpy::scalar(code, bytes),
                (Node::NumpyDType(code), Node::Latin1(text)) => {
                    numpy::latin1(text).and_then(|bytes| numpy::scalar(code, &bytes))
                }
                _ => None,
            },
            _ => None,
        };
        match scalar {
            Some(Scalar::Bool(value)) => Node::Bool(value),
            Some(Scalar::Int(value)) => Node::Int(value),
            Some(Scalar::Float(value)) => Node::Float(value),
            None => Node::Made(Global::NumpyScalar),
        }
    }

    /// Sets the attributes of an object. Those of a foreign object may be a config; the
    /// `_metadata` (module versions) of a `state_dict()` is ignored.
    fn build_state(&mut self) -> Result<(), ReadError> {
        let state = self.pop()?;
        let target = self.top()?;
        if let Node::NumpyDType(_) = self.node(target) {
            self.numpy_order(target, state);
            return Ok(());
        }
        if let Node::Made(class @ Global::Foreign(..)) = *self.node(target)
            && let Node::Dict { .. } = self.node(state)
        {
            self.replace(target, Node::Object(class, state));
            return Ok(());
        }
        let takes_state = matches!(
            self.node(target),
            Node::Made(_) | Node::Object(..) | Node::Dict { ordered: true, .. } | Node::None
        );
        if takes_state {
            Ok(())
        } else {
            Err(self
                .input
                .fault("it sets attributes of a value that has none"))
        }
    }

    /// A dtype's state is `(version, byte order, ..)`; only little-endian is read.
    fn numpy_order(&mut self, dtype: Id, state: Id) {
        let order = if let Node::Tuple(parts) = self.node(state) {
            parts.get(1).map(|&order| self.node(order))
        } else {
            None
        };
        if !matches!(order, Some(Node::Str("<" | "|" | "="))) {
            self.replace(dtype, Node::Made(Global::NumpyDType));
        }
    }

    fn replace(&mut self, id: Id, node: Node<'a>) {
        if let Some(old) = self.nodes.get_mut(id) {
            *old = node;
        }
    }
}
