//! The reader on malformed archives and pickles, and on the writer's output.

use proptest::prelude::*;

use super::*;

/// Each storage of four bytes: two elements of `HalfStorage`, four of `ByteStorage`.
const STORAGE: &[u8] = &[1, 0, 1, 0];

fn read_pickle(pickle: &[u8]) -> Result<Loaded, ReadError> {
    read(&archive::write("a", pickle, &[STORAGE]).unwrap())
}

/// A pickle of protocol 2 from its opcodes, ended by `STOP`.
fn pickle(opcodes: &[&[u8]]) -> Vec<u8> {
    [&[0x80, 2], opcodes.concat().as_slice(), b"."].concat()
}

fn text(text: &str) -> Vec<u8> {
    let length = (text.len() as u32).to_le_bytes();
    [b"X", length.as_slice(), text.as_bytes()].concat()
}

/// A tensor on `data/0`; sizes and strides are whole opcodes, such as `K\x02\x85`.
fn tensor(class: &str, elements: u8, offset: u8, sizes: &[u8], strides: &[u8]) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
        &text("storage"),
        format!("ctorch\n{class}\n").as_bytes(),
        &text("0"),
        &text("cpu"),
        &[b'K', elements],
        b"tQ",
        &[b'K', offset],
        sizes,
        strides,
        b"\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

fn sample() -> Value {
    let all = DType::ALL.into_iter().map(|dtype| {
        let bytes = (0..6 * dtype.size()).map(|i| (i % 2) as u8).collect();
        let tensor = Tensor::new(dtype, vec![2, 3], bytes).unwrap();
        (dtype.name().to_owned(), tensor)
    });
    let extremes = [0, 255, 256, -1, 1 << 31, -(1 << 31), i64::MAX, i64::MIN];
    Value::dict([
        ("dtypes", Value::state_dict(all)),
        ("scalar", Tensor::scalar_f32(-0.5).into()),
        ("empty", Tensor::from_f32(vec![0, 3], &[]).unwrap().into()),
        ("ints", Value::List(extremes.map(Value::Int).into())),
        (
            "floats",
            Value::List(vec![0.1.into(), f64::INFINITY.into()]),
        ),
        ("pair", Value::Tuple(vec![Value::None, true.into()])),
        ("nothing", Value::Tuple(vec![])),
        ("text", "größer als 0".into()),
    ])
}

#[test]
fn a_value_round_trips() {
    let read = read(&write("sample", &sample()).unwrap()).unwrap();
    assert_eq!(read.value, sample());
    assert_eq!(read.foreign, Vec::<String>::new());
}

/// The log has hashes of checkpoints, so another hash here is another format.
#[test]
fn a_value_always_has_the_same_bytes() {
    let bytes = write("sample", &sample()).unwrap();
    assert_eq!(bytes, write("sample", &sample()).unwrap());
    let hash = blake3::hash(&bytes).to_hex();
    assert_eq!(&hash[..16], "8262da4b11e6d2b9");
}

#[test]
fn storages_begin_at_multiples_of_64_bytes() {
    let marker = [0xA5; 32];
    let weights = Tensor::new(DType::U8, vec![32], marker.to_vec()).unwrap();
    let value = Value::List(vec![weights.clone().into(), weights.into()]);
    let bytes = write("a", &value).unwrap();
    let starts: Vec<usize> = (0..bytes.len())
        .filter(|&at| bytes[at..].starts_with(&marker))
        .collect();
    assert_eq!(starts.len(), 2);
    assert!(starts.iter().all(|start| start % 64 == 0), "{starts:?}");
}

#[track_caller]
fn check_refused(name: &str, result: Result<Loaded, ReadError>, want: &str) {
    match result {
        Err(error) => assert_eq!(error.to_string(), want, "{name}"),
        Ok(loaded) => panic!("{name}: read as {loaded:?}"),
    }
}

#[test]
fn malformed_pickles_are_refused() {
    let refused = |name, opcodes: &[&[u8]], want: &str| {
        check_refused(name, read_pickle(&pickle(opcodes)), want);
    };
    let malformed = "the pickle is malformed at byte";
    let at = |byte: usize, what: &str| format!("{malformed} {byte}: {what}");
    check_refused(
        "no bytes at all",
        read_pickle(b""),
        &at(0, "it ends too early"),
    );
    check_refused(
        "protocol 6",
        read_pickle(b"\x80\x06N."),
        "cannot read a pickle of protocol 6, expected 2 to 5",
    );
    check_refused(
        "protocol 1, which does not say so",
        read_pickle(b"N."),
        "cannot read a pickle of protocol 0 or 1, expected 2 to 5",
    );
    check_refused(
        "no stop",
        read_pickle(b"\x80\x02N"),
        &at(3, "it ends too early"),
    );
    check_refused(
        "bytes after the stop",
        read_pickle(b"\x80\x02N.N"),
        &at(4, "bytes follow its end"),
    );
    refused(
        "nothing to return",
        &[],
        &at(3, "it takes a value from an empty stack"),
    );
    refused(
        "two values to return",
        &[b"NN"],
        &at(5, "it stops with values left over"),
    );
    refused(
        "a mark left over",
        &[b"N("],
        &at(5, "it takes a value from an empty stack"),
    );
    refused(
        "a pop through a mark",
        &[b"N(a"],
        &at(5, "it takes a value from an empty stack"),
    );
    refused(
        "items of None",
        &[b"N(NNu"],
        &at(7, "it sets items of a value that is not a dict"),
    );
    refused(
        "an append to None",
        &[b"NNa"],
        &at(5, "it appends to a value that is not a list"),
    );
    refused(
        "three items of a dict",
        &[b"}(NNNu"],
        &at(8, "a key has no value"),
    );
    refused("no mark for a tuple", &[b"Nt"], &at(4, "a mark is missing"));
    refused(
        "an empty memo",
        &[b"h\x00"],
        &at(4, "it recalls a value it never stored"),
    );
    refused(
        "a call of None",
        &[b"N)R"],
        &at(5, "it calls a value that is not a global"),
    );
    refused(
        "attributes of a list",
        &[b"]}b"],
        &at(5, "it sets attributes of a value that has none"),
    );
    refused(
        "half a string",
        &[b"X\xff\xff\xff\xffab"],
        &at(7, "it ends too early"),
    );
    refused(
        "a string not of UTF-8",
        &[b"X\x01\x00\x00\x00\xff"],
        &at(8, "a string is not UTF-8"),
    );
    refused(
        "a name without end",
        &[b"cos\nsystem"],
        &at(6, "a name does not end"),
    );
    refused(
        "an opcode of protocol 5 for buffers elsewhere",
        &[b"\x97"],
        "cannot read pickle opcode 0x97 at byte 2",
    );
    refused(
        "a global by numbers",
        &[b"K\x01K\x02\x93"],
        &at(7, "a global has no name"),
    );
    refused(
        "a text opcode",
        &[b"I1\n"],
        "cannot read pickle opcode 0x49 at byte 2",
    );
    refused(
        "a persistent id of nothing",
        &[b"(X\x07\0\0\0storageNNNNtQ"],
        &at(21, "a persistent id does not refer to a storage"),
    );
    refused(
        "a key twice",
        &[b"}(K\x01NK\x01Nu"],
        "the archive is damaged: a dict has the same key twice",
    );
}

#[test]
fn tensors_that_do_not_fit_are_refused() {
    let refused = |name, tensor: &[u8], want: &str| {
        check_refused(name, read_pickle(&pickle(&[tensor])), want);
    };
    let does_not_fit = |what: &str| format!("a tensor does not fit its storage: {what}");
    refused(
        "a storage of another size",
        &tensor("HalfStorage", 3, 0, b"K\x03\x85", b"K\x01\x85"),
        &does_not_fit("record `data/0` has 4 bytes, and the pickle says 3 elements of float16"),
    );
    refused(
        "an element too many",
        &tensor("HalfStorage", 2, 0, b"K\x03\x85", b"K\x01\x85"),
        &does_not_fit("shape [3], strides [1], offset 0 in a storage of 2 elements"),
    );
    refused(
        "an offset too far",
        &tensor("HalfStorage", 2, 1, b"K\x02\x85", b"K\x01\x85"),
        &does_not_fit("shape [2], strides [1], offset 1 in a storage of 2 elements"),
    );
    refused(
        "an empty tensor beyond the end",
        &tensor("HalfStorage", 2, 3, b"K\x00\x85", b"K\x01\x85"),
        &does_not_fit("shape [0], strides [1], offset 3 in a storage of 2 elements"),
    );
    refused(
        "a stride too long",
        &tensor("HalfStorage", 2, 0, b"K\x02\x85", b"K\x02\x85"),
        &does_not_fit("shape [2], strides [2], offset 0 in a storage of 2 elements"),
    );
    refused(
        "a negative size",
        &tensor("HalfStorage", 2, 0, b"J\xff\xff\xff\xff\x85", b"K\x01\x85"),
        &does_not_fit("a size or stride is not a count"),
    );
    refused(
        "fewer strides than sizes",
        &tensor("HalfStorage", 2, 0, b"K\x01K\x02\x86", b"K\x01\x85"),
        &does_not_fit("2 sizes and 1 strides"),
    );
    let sevens = pickle(&[&tensor("BoolStorage", 2, 0, b"K\x02\x85", b"K\x01\x85")]);
    check_refused(
        "a bool of 7",
        read(&archive::write("a", &sevens, &[&[1, 7]]).unwrap()),
        &does_not_fit("a `bool` element is 7"),
    );
    let sizes = [b"(".as_slice(), &b"K\x01".repeat(65), b"t"].concat();
    refused(
        "sixty-five dimensions",
        &tensor("HalfStorage", 2, 0, &sizes, &sizes),
        "a tensor's number of dimensions exceeds the limit of 64",
    );
    let huge = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
    let sizes = [huge.as_slice(), huge, b"\x86"].concat();
    refused(
        "more elements than can be counted",
        &tensor("HalfStorage", 2, 0, &sizes, b"K\x00K\x00\x86"),
        &does_not_fit(&format!(
            "shape [{0}, {0}], strides [0, 0], offset 0 in a storage of 2 elements",
            i64::MAX
        )),
    );
}

#[track_caller]
fn check_elements(name: &str, tensor_opcodes: &[u8], want: &[u8]) {
    let loaded = read_pickle(&pickle(&[tensor_opcodes])).unwrap();
    assert_eq!(loaded.value.as_tensor().unwrap().data(), want, "{name}");
}

#[test]
fn views_of_a_storage_are_gathered_in_row_major_order() {
    let of =
        |offset, sizes: &[u8], strides: &[u8]| tensor("HalfStorage", 2, offset, sizes, strides);
    check_elements(
        "all of it",
        &of(0, b"K\x02\x85", b"K\x01\x85"),
        &[1, 0, 1, 0],
    );
    check_elements("its last", &of(1, b"K\x01\x85", b"K\x01\x85"), &[1, 0]);
    check_elements("a scalar", &of(1, b")", b")"), &[1, 0]);
    check_elements(
        "one element thrice",
        &of(0, b"K\x03\x85", b"K\x00\x85"),
        &[1, 0, 1, 0, 1, 0],
    );
    check_elements("nothing", &of(0, b"K\x00\x85", b"K\x01\x85"), &[]);
    let bytes = |sizes: &[u8], strides: &[u8]| tensor("ByteStorage", 4, 0, sizes, strides);
    check_elements(
        "a transpose",
        &bytes(b"K\x02K\x02\x86", b"K\x01K\x02\x86"),
        &[1, 1, 0, 0],
    );
    check_elements("every second", &bytes(b"K\x02\x85", b"K\x02\x85"), &[1, 1]);
    let wide = b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x02\x86";
    check_elements(
        "a stride never taken",
        &bytes(b"K\x01K\x02\x86", wide),
        &[1, 1],
    );
}

#[test]
fn foreign_code_is_named_and_never_run() {
    let call = pickle(&[b"cposix\nmkdir\n", &text("MADE_BY_A_PICKLE"), b"\x85R"]);
    let loaded = read_pickle(&call).unwrap();
    assert_eq!(loaded.foreign, ["posix.mkdir"]);
    let class = "posix.mkdir".to_owned();
    assert_eq!(loaded.value, Value::Opaque { class });

    let dropped = pickle(&[b"cposix\nsystem\n", &text("true"), b"\x85R0N"]);
    let loaded = read_pickle(&dropped).unwrap();
    assert_eq!(
        loaded.foreign,
        ["posix.system"],
        "its result is thrown away"
    );
    assert_eq!(loaded.value, Value::None);
}

#[test]
fn plain_attributes_of_a_foreign_object_are_read() {
    let of = |attributes: &[u8]| {
        let made = [b"cargparse\nNamespace\n)\x81q\x01", attributes, b"b"].concat();
        read_pickle(&pickle(&[&made])).unwrap()
    };
    let attributes = [
        b"}(".as_slice(),
        &text("num_heads"),
        b"K\x04",
        &text("itself"),
        b"h\x01",
        &text("list"),
        b"]u",
    ]
    .concat();
    let loaded = of(&attributes);
    assert_eq!(loaded.foreign, ["argparse.Namespace"]);
    let want = Value::Object {
        class: "argparse.Namespace".to_owned(),
        attributes: vec![("num_heads".into(), Value::Int(4))],
    };
    assert_eq!(loaded.value, want);
    assert_eq!(loaded.value.get("num_heads"), Some(&Value::Int(4)));
    assert_eq!(loaded.value.as_dict(), None, "it is not a dict");
}

/// Small files that would expand to gigabytes.
#[test]
fn bombs_are_refused() {
    let doubled: Vec<u8> = (0..60_u8)
        .flat_map(|level| {
            [
                b']',
                b'(',
                b'h',
                level,
                b'h',
                level,
                b'e',
                b'q',
                level + 1,
                b'0',
            ]
        })
        .collect();
    check_refused(
        "a list of the same two lists, sixty times",
        read_pickle(&pickle(&[b"]q\x000", &doubled, b"h\x3c"])),
        "the size of all values in proportion to the pickle exceeds the limit of 128",
    );
    let doubled: Vec<u8> = (0..60_u8)
        .flat_map(|level| [b'h', level, b'h', level, 0x86, b'q', level + 1, b'0'])
        .collect();
    check_refused(
        "a pair of the same two pairs, sixty times",
        read_pickle(&pickle(&[b")q\0", b"0", &doubled, b"h\x3c"])),
        "the size of all values in proportion to the pickle exceeds the limit of 128",
    );
    check_refused(
        "a list that holds itself",
        read_pickle(&pickle(&[b"]q\0h\0a"])),
        "the depth of nested values exceeds the limit of 64",
    );
    let deep = [vec![b']'; 1_000_000], vec![b'a'; 999_999]].concat();
    check_refused(
        "a million lists in each other",
        read_pickle(&pickle(&[&deep])),
        "the depth of nested values exceeds the limit of 64",
    );
    let many = tensor("HalfStorage", 2, 0, b"J\0\0\0\x40\x85", b"K\x00\x85");
    check_refused(
        "one element a billion times",
        read_pickle(&pickle(&[&many])),
        "the size of all tensors in proportion to the file exceeds the limit of 8",
    );
}

/// The archive of `None`, changed by hand.
fn changed(change: impl FnOnce(&mut Vec<u8>)) -> Result<Loaded, ReadError> {
    let mut bytes = write("a", &Value::None).unwrap();
    change(&mut bytes);
    read(&bytes)
}

/// Where `needle` occurs for the `n`-th time.
fn find(bytes: &[u8], needle: &[u8], n: usize) -> usize {
    let mut places = (0..bytes.len()).filter(|&at| bytes[at..].starts_with(needle));
    places.nth(n).unwrap()
}

#[test]
fn damaged_archives_are_refused() {
    check_refused(
        "no archive",
        read(b"not an archive, but text of some length"),
        "the file does not begin like a `torch.save` archive (a zip)",
    );
    check_refused(
        "more bytes after the end than a comment may have",
        changed(|bytes| bytes.resize(bytes.len() + 65_536, 0)),
        "the archive is truncated: its table of records is not within the last 64 KiB of the file",
    );
    check_refused(
        "a flipped bit in a record",
        changed(|bytes| {
            let at = find(bytes, b"\x80\x02N.", 0);
            bytes[at + 2] ^= 1;
        }),
        "record `a/data.pkl` has checksum 64aee34c, and the archive says 7db5d20d",
    );
    check_refused(
        "a compressed record",
        changed(|bytes| {
            let at = find(bytes, b"PK\x01\x02", 0);
            bytes[at + 10] = 8;
        }),
        "cannot read compressed record `a/data.pkl`; `torch.save` stores records as they are",
    );
    check_refused(
        "an encrypted record",
        changed(|bytes| {
            let at = find(bytes, b"PK\x01\x02", 0);
            bytes[at + 8] |= 1;
        }),
        "cannot read encrypted record `a/data.pkl`",
    );
    check_refused(
        "a record longer than the file",
        changed(|bytes| {
            let at = find(bytes, b"PK\x01\x02", 0);
            bytes[at + 20..at + 28].fill(0xFF);
        }),
        "the archive is damaged: record `a/data.pkl` reaches past the records' end",
    );
    check_refused(
        "a record over its neighbour",
        changed(|bytes| {
            let at = find(bytes, b"PK\x01\x02", 0);
            (bytes[at + 20], bytes[at + 24]) = (200, 200);
        }),
        "the archive is damaged: records `a/data.pkl` and `a/.format_version` overlap",
    );
    check_refused(
        "another name in the table than at the record",
        changed(|bytes| {
            let at = find(bytes, b"a/data.pkl", 1);
            bytes[at + 2] = b'D';
        }),
        "the archive is damaged: record `a/Data.pkl` is not where its table says",
    );
    check_refused(
        "fewer records than said",
        changed(|bytes| {
            let at = find(bytes, b"PK\x06\x06", 0);
            let end = find(bytes, b"PK\x05\x06", 0);
            for at in [at + 24, at + 32, end + 8, end + 10] {
                bytes[at] += 1;
            }
        }),
        "the archive is damaged: an entry of its table of records is malformed",
    );
    check_refused(
        "end records that disagree",
        changed(|bytes| {
            let at = find(bytes, b"PK\x05\x06", 0);
            (bytes[at + 8], bytes[at + 10]) = (9, 9);
        }),
        "the archive is damaged: its two end records disagree",
    );
}

#[test]
fn what_pytorch_tolerates_in_an_archive_is_accepted() {
    let read_changed = |change: fn(&mut Vec<u8>)| changed(change).map(|loaded| loaded.value);
    let comment = |bytes: &mut Vec<u8>| {
        let length = bytes.len();
        bytes[length - 2] = 10;
        bytes.extend_from_slice(b"downloaded");
    };
    assert_eq!(read_changed(comment), Ok(Value::None));
    let junk = |bytes: &mut Vec<u8>| bytes.resize(bytes.len() + 65_535, b'P');
    assert_eq!(read_changed(junk), Ok(Value::None));
    let without_sums = |bytes: &mut Vec<u8>| {
        let places: Vec<usize> = (0..bytes.len())
            .filter(|&at| bytes[at..].starts_with(b"PK\x01\x02"))
            .collect();
        for at in places {
            bytes[at + 16..at + 20].fill(0);
        }
    };
    assert_eq!(read_changed(without_sums), Ok(Value::None));
}

#[track_caller]
fn check_opaque(name: &str, opcodes: &[u8], class: &str) {
    let loaded = read_pickle(&pickle(&[opcodes])).unwrap();
    let class = class.to_owned();
    assert_eq!(loaded.value, Value::Opaque { class }, "{name}");
    assert_eq!(loaded.foreign, Vec::<String>::new(), "{name}");
}

#[test]
fn unsupported_tensors_are_opaque_values() {
    let one = b"K\x01\x85";
    check_opaque(
        "complex numbers",
        &tensor("ComplexFloatStorage", 1, 0, one, one),
        "complex64 tensor",
    );
    check_opaque(
        "a storage class of the future",
        &tensor("Float4Storage", 1, 0, one, one),
        "Float4Storage tensor",
    );
    let call = |function: &str, arguments: &[u8]| {
        let global = format!("ctorch._utils\n{function}\n");
        [global.as_bytes(), arguments, b"R"].concat()
    };
    check_opaque(
        "sparse",
        &call("_rebuild_sparse_tensor", b"NN\x86"),
        "sparse tensor",
    );
    check_opaque(
        "quantized",
        &call("_rebuild_qtensor", b")"),
        "quantized tensor",
    );
    let untyped = call("_rebuild_tensor_v3", b"(NNNNNNctorch\nuint16\nt");
    check_opaque("uint16", &untyped, "uint16 tensor");
    let eight = call("_rebuild_tensor_v3", b"(NNNNNNctorch\nfloat8_e5m2\nt");
    check_opaque("a float of 8 bits", &eight, "float8_e5m2 tensor");
    check_opaque(
        "a complex storage of its own",
        &[b"ctorch\nComplexDoubleStorage\n".as_slice()].concat(),
        "complex128 tensor",
    );
}

/// A NumPy scalar as protocol 2 has it: its bytes as text.
fn numpy(code: &str, order: &str, bytes: &str) -> Vec<u8> {
    [
        b"cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\n".as_slice(),
        &text(code),
        b"\x89\x88\x87R(K\x03",
        &text(order),
        b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tbc_codecs\nencode\n",
        &text(bytes),
        &text("latin1"),
        b"\x86R\x86R",
    ]
    .concat()
}

#[test]
fn numpy_scalars_are_numbers() {
    let read = |opcodes: &[u8]| read_pickle(&pickle(&[opcodes])).unwrap();
    let one = "\0\0\0\0\0\0\u{f0}\u{3f}";
    assert_eq!(read(&numpy("f8", "<", one)).value, Value::Float(1.0));
    assert_eq!(read(&numpy("i2", "<", "\u{2}\0")).value, Value::Int(2));
    assert_eq!(read(&numpy("b1", "|", "\u{1}")).value, Value::Bool(true));
    check_opaque("big-endian", &numpy("f8", ">", one), "numpy scalar");
    check_opaque("a date", &numpy("M8", "<", one), "numpy scalar");
    check_opaque("bytes missing", &numpy("f8", "<", "\0"), "numpy scalar");
}

#[test]
fn protocols_3_to_5_are_read() {
    // {"a": {1, 2}, "b": b"xy", "c": (True,)} by Python's pickle.dumps, protocol 4, and 5.
    let four = b"\x80\x04\x95\x23\0\0\0\0\0\0\0}\x94(\x8c\x01a\x94\x8f\x94(K\x01K\x02\x90\x8c\x01b\x94C\x02xy\x94\x8c\x01c\x94\x88\x85\x94u.";
    let opaque = |class: &str| Value::Opaque {
        class: class.to_owned(),
    };
    let want = Value::dict([
        ("a", opaque("set")),
        ("b", opaque("bytes")),
        ("c", Value::Tuple(vec![true.into()])),
    ]);
    assert_eq!(read_pickle(four).unwrap().value, want);
    let mut five = four.to_vec();
    five[1] = 5;
    assert_eq!(read_pickle(&five).unwrap().value, want);
    let three = b"\x80\x03C\x02xy.";
    assert_eq!(read_pickle(three).unwrap().value, opaque("bytes"));
    let global = b"\x80\x04\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94.";
    assert_eq!(
        read_pickle(global).unwrap().value,
        Value::OrderedDict(vec![])
    );
}

/// A file of the format before PyTorch 1.6: its value's pickle, and storages of i64.
fn legacy(value: &[u8], keys: &[u8], storages: &[&[i64]]) -> Vec<u8> {
    let mut bytes = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec();
    bytes.extend(pickle(&[b"}", &text("little_endian"), b"\x88s"]));
    bytes.extend(pickle(&[value]));
    bytes.extend(pickle(&[keys]));
    for storage in storages {
        bytes.extend((storage.len() as u64).to_le_bytes());
        bytes.extend(storage.iter().flat_map(|number| number.to_le_bytes()));
    }
    bytes
}

fn legacy_tensor(key: &str, elements: u8) -> Vec<u8> {
    [
        b"ctorch._utils\n_rebuild_tensor_v2\n((".as_slice(),
        &text("storage"),
        b"ctorch\nLongStorage\n",
        &text(key),
        &text("cuda:0"),
        &[b'K', elements],
        b"NtQK\x00K",
        &[elements],
        b"\x85K\x01\x85\x89ccollections\nOrderedDict\n)RtR",
    ]
    .concat()
}

#[test]
fn the_format_before_pytorch_1_6_is_read() {
    let both = [
        legacy_tensor("7", 2),
        legacy_tensor("8", 1),
        b"\x86".to_vec(),
    ]
    .concat();
    let keys = [b"](".as_slice(), &text("8"), &text("7"), b"e"].concat();
    let bytes = legacy(&both, &keys, &[&[5], &[1, -2]]);
    let tensor =
        |values: &[i64]| Value::from(Tensor::from_i64(vec![values.len()], values).unwrap());
    let want = Value::Tuple(vec![tensor(&[1, -2]), tensor(&[5])]);
    assert_eq!(read(&bytes).unwrap().value, want);
    for length in 17..bytes.len() {
        assert!(read(&bytes[..length]).is_err(), "its first {length} bytes");
    }
    check_refused(
        "a missing storage",
        read(&legacy(
            &both,
            &[b"](".as_slice(), &text("8"), b"e"].concat(),
            &[&[5]],
        )),
        "the archive has no record `data/7`, which every `torch.save` file has",
    );
    check_refused(
        "a storage longer than the file",
        read(&bytes[..bytes.len() - 1]),
        "the archive is truncated: its table of records is not within the last 64 KiB of the file",
    );
    let call = [
        b"cposix\nmkdir\n".as_slice(),
        &text("MADE_BY_A_PICKLE"),
        b"\x85R",
    ]
    .concat();
    let loaded = read(&legacy(&call, b"]", &[])).unwrap();
    assert_eq!(loaded.foreign, ["posix.mkdir"]);
}

#[track_caller]
fn check_trained(name: &str, dtype: DType, bytes: &[u8], want: Result<f32, &str>) {
    let tensor = Tensor::new(dtype, vec![1], bytes.to_vec()).unwrap();
    let found = tensor
        .for_training()
        .map(|tensor| tensor.to_f32().unwrap()[0]);
    let found = found.map_err(|error| error.to_string());
    assert_eq!(found, want.map_err(str::to_owned), "{name}");
}

#[test]
fn floats_are_widened_exactly_and_float64_is_rounded() {
    check_trained("f16 1", DType::F16, &[0, 0x3C], Ok(1.0));
    check_trained("f16 -2", DType::F16, &[0, 0xC0], Ok(-2.0));
    check_trained("f16 max", DType::F16, &[0xFF, 0x7B], Ok(65504.0));
    check_trained("f16 least", DType::F16, &[1, 0], Ok(2.0_f32.powi(-24)));
    check_trained(
        "f16 most subnormal",
        DType::F16,
        &[0xFF, 3],
        Ok(1023.0 * 2.0_f32.powi(-24)),
    );
    check_trained("f16 -0", DType::F16, &[0, 0x80], Ok(-0.0));
    check_trained("bf16", DType::BF16, &[0x80, 0xBF], Ok(-1.0));
    check_trained("f64", DType::F64, &0.1_f64.to_le_bytes(), Ok(0.1));
    check_trained(
        "f64 beyond f32",
        DType::F64,
        &1e39_f64.to_le_bytes(),
        Err("1000000000000000000000000000000000000000 does not fit a float32"),
    );
    let short = Tensor::new(
        DType::I32,
        vec![2],
        vec![0xFF, 0xFF, 0xFF, 0xFF, 7, 0, 0, 0],
    )
    .unwrap();
    assert_eq!(short.for_training().unwrap().to_i64(), Ok(vec![-1, 7]));
}

/// An archive of the records given, each under its full name.
fn archive_of(records: &[(&str, &[u8])]) -> Vec<u8> {
    archive::write_records(records).unwrap()
}

#[test]
fn archives_that_are_no_torch_files_are_refused() {
    let (version, body) = (("a/version", b"3\n".as_slice()), b"\x80\x02N.".as_slice());
    let pickle = ("a/data.pkl", body);
    let order = |order: &'static [u8]| ("a/byteorder", order);
    let refused = |name, records: &[(&str, &[u8])], want: &str| {
        check_refused(name, read(&archive_of(records)), want);
    };
    assert!(read(&archive_of(&[pickle, version])).is_ok());
    refused(
        "no pickle",
        &[version],
        "the archive has no record `data.pkl`, which every `torch.save` file has",
    );
    refused(
        "no version",
        &[pickle],
        "the archive has no record `version`, which every `torch.save` file has",
    );
    refused(
        "a version of the future",
        &[pickle, ("a/version", b"11\n")],
        "cannot read file format 11, expected 1 to 10",
    );
    refused(
        "a version in words",
        &[pickle, ("a/version", b"three")],
        "the archive is damaged: record `version` is not a number",
    );
    refused(
        "big-endian",
        &[pickle, version, order(b"big")],
        "cannot read big-endian tensors; save them on a little-endian machine",
    );
    refused(
        "middle-endian",
        &[pickle, version, order(b"middle")],
        "the archive is damaged: record `byteorder` is neither `little` nor `big`",
    );
    refused(
        "a record twice",
        &[pickle, version, pickle],
        "record `data.pkl` occurs twice in the archive",
    );
    refused(
        "records in two folders",
        &[pickle, ("b/version", b"3\n")],
        "the archive is damaged: its records are in several folders",
    );
    refused(
        "a record in no folder",
        &[("data.pkl", body), version],
        "the archive is damaged: record `data.pkl` is not in a folder",
    );
}

#[test]
fn every_truncation_is_refused() {
    let bytes = write("a", &sample()).unwrap();
    for length in 0..bytes.len() {
        let refused = read(&bytes[..length]).is_err();
        assert!(
            refused,
            "the first {length} of {} bytes were read",
            bytes.len()
        );
    }
}

#[test]
fn unreadable_values_are_not_written() {
    let class = "os.system".to_owned();
    let opaque = Value::List(vec![Value::Opaque {
        class: class.clone(),
    }]);
    assert_eq!(write("a", &opaque), Err(WriteError::Opaque { class }));
    let nested = |depth| (0..depth).fold(Value::None, |inner, _| Value::List(vec![inner]));
    assert!(read(&write("a", &nested(DEPTH_MAX)).unwrap()).is_ok());
    let limit = DEPTH_MAX;
    assert_eq!(
        write("a", &nested(DEPTH_MAX + 1)),
        Err(WriteError::TooDeep { limit })
    );
    for name in ["", "a/b", &"a".repeat(256)] {
        let name = name.to_owned();
        assert_eq!(write(&name, &Value::None), Err(WriteError::Name { name }));
    }
}

#[track_caller]
fn check_finite(name: &str, dtype: DType, element: &[u8], want: bool) {
    let tensor = Tensor::new(dtype, vec![1], element.to_vec()).unwrap();
    assert_eq!(tensor.is_finite(), want, "{name}");
}

#[test]
fn non_finite_elements_are_found_in_every_type() {
    check_finite("f64 NaN", DType::F64, &f64::NAN.to_le_bytes(), false);
    check_finite("f64 max", DType::F64, &f64::MAX.to_le_bytes(), true);
    check_finite(
        "f32 -inf",
        DType::F32,
        &f32::NEG_INFINITY.to_le_bytes(),
        false,
    );
    check_finite("f32 max", DType::F32, &f32::MAX.to_le_bytes(), true);
    check_finite("f16 inf", DType::F16, &[0x00, 0x7C], false);
    check_finite("f16 NaN", DType::F16, &[0x01, 0xFC], false);
    check_finite("f16 max", DType::F16, &[0xFF, 0x7B], true);
    check_finite("bf16 inf", DType::BF16, &[0x80, 0x7F], false);
    check_finite("bf16 max", DType::BF16, &[0x7F, 0x7F], true);
    check_finite("i64 of all ones", DType::I64, &[0xFF; 8], true);
    check_finite("i16 like a NaN", DType::I16, &[0x01, 0xFC], true);
}

#[track_caller]
fn check_tensor(name: &str, result: Result<Tensor, TensorError>, want: &str) {
    assert_eq!(result.unwrap_err().to_string(), want, "{name}");
}

#[test]
fn a_tensor_has_the_length_of_its_shape() {
    check_tensor(
        "a value too few",
        Tensor::from_f32(vec![2, 2], &[0.0; 3]),
        "shape [2, 2] of float32 needs 16 bytes, found 12",
    );
    check_tensor(
        "a shape beyond all memory",
        Tensor::new(DType::F32, vec![usize::MAX, 2], vec![]),
        &format!(
            "shape [{}, 2] of float32 needs more bytes than a machine can address",
            usize::MAX
        ),
    );
    let tensor = Tensor::from_i64(vec![2], &[-1, i64::MAX]).unwrap();
    assert_eq!(tensor.to_i64(), Ok(vec![-1, i64::MAX]));
    let error = tensor.to_f32().unwrap_err().to_string();
    assert_eq!(error, "the tensor has type int64, expected float32");
}

fn any_value() -> impl Strategy<Value = Value> {
    let tensor = (0..DType::ALL.len(), prop::collection::vec(0..4_usize, 0..4)).prop_map(
        |(dtype, shape)| {
            let dtype = DType::ALL[dtype];
            let bytes = shape.iter().product::<usize>() * dtype.size();
            let data = (0..bytes).map(|i| (i % 2) as u8).collect();
            Value::Tensor(Tensor::new(dtype, shape, data).unwrap())
        },
    );
    let leaf = prop_oneof![
        Just(Value::None),
        any::<bool>().prop_map(Value::Bool),
        any::<i64>().prop_map(Value::Int),
        prop::num::f64::NORMAL.prop_map(Value::Float),
        ".{0,12}".prop_map(Value::Str),
        tensor,
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        let items = || prop::collection::vec(inner.clone(), 0..6);
        let entries = || {
            prop::collection::btree_map(".{0,8}", inner.clone(), 0..6)
                .prop_map(|map| map.into_iter().map(|(k, v)| (Value::Str(k), v)).collect())
        };
        prop_oneof![
            items().prop_map(Value::List),
            items().prop_map(Value::Tuple),
            entries().prop_map(Value::Dict),
            entries().prop_map(Value::OrderedDict),
        ]
    })
}

proptest! {
    #[test]
    fn any_value_round_trips(value in any_value()) {
        let loaded = read(&write("any", &value).unwrap()).unwrap();
        prop_assert_eq!(loaded.value, value);
    }

    #[test]
    fn any_bytes_after_a_zip_signature_are_handled(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let _ = read(&[b"PK\x03\x04", bytes.as_slice()].concat());
    }

    #[test]
    fn any_opcodes_are_handled(
        opcodes in prop::collection::vec(
            prop::sample::select(
                b"(.012BCGJKMNQRX]abcehjqrstu)}\x00\x01\x02\x80\x81\x85\x86\x87\x88\x89\x8a\x8b\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\n".to_vec(),
            ),
            0..200,
        ),
    ) {
        let _ = read_pickle(&pickle(&[&opcodes]));
        let _ = read(&legacy(&opcodes, b"]", &[]));
    }
}
