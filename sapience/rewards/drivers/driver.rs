// Calls one function with arguments read as JSON from standard input and writes what it returns as the last line.
//
// A parameter's type says how its argument is read: bool, numbers, char, String, Vec, arrays, VecDeque, sets, maps, tuples,
// Option, Box, and references to them, to slices and to str. What a reference points to lives as long as the program.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::io::{Read, Write};

fn fail(reason: &str) -> ! {
    eprintln!("{}", reason);
    std::process::exit(3)
}

#[derive(Clone)]
pub enum Json {
    Null,
    Truth(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

struct Cursor<'a> {
    letters: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    fn next(&mut self) -> u8 {
        while self.at < self.letters.len() && self.letters[self.at].is_ascii_whitespace() {
            self.at += 1;
        }
        *self.letters.get(self.at).unwrap_or(&0)
    }
    fn take(&mut self, wanted: u8) -> bool {
        let found = self.next() == wanted;
        self.at += found as usize;
        found
    }
    fn value(&mut self) -> Json {
        match self.next() {
            b'[' => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.take(b']') {
                    items.push(self.value());
                    self.take(b',');
                }
                Json::List(items)
            }
            b'{' => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.take(b'}') {
                    self.next();
                    let name = self.text();
                    self.take(b':');
                    items.push((name, self.value()));
                    self.take(b',');
                }
                Json::Object(items)
            }
            b'"' => Json::Text(self.text()),
            0 => fail("no JSON"),
            _ => {
                let start = self.at;
                while self.at < self.letters.len() && !b",]}: \t\r\n".contains(&self.letters[self.at]) {
                    self.at += 1;
                }
                match &self.letters[start..self.at] {
                    b"null" => Json::Null,
                    b"true" => Json::Truth(true),
                    b"false" => Json::Truth(false),
                    word => Json::Number(String::from_utf8_lossy(word).into_owned()),
                }
            }
        }
    }
    fn code(&mut self) -> u32 {
        let digits = std::str::from_utf8(&self.letters[self.at..self.at + 4]).unwrap_or("");
        self.at += 4;
        u32::from_str_radix(digits, 16).unwrap_or_else(|_| fail("no JSON"))
    }
    fn text(&mut self) -> String {
        let mut made = Vec::new();
        self.at += 1;
        while self.letters[self.at] != b'"' {
            let letter = self.letters[self.at];
            self.at += 1;
            if letter != b'\\' {
                made.push(letter);
                continue;
            }
            let escaped = self.letters[self.at];
            self.at += 1;
            let plain = match escaped {
                b'n' => '\n',
                b't' => '\t',
                b'r' => '\r',
                b'b' => '\u{8}',
                b'f' => '\u{c}',
                b'u' => {
                    let mut code = self.code();
                    if (0xD800..0xDC00).contains(&code) && self.letters[self.at..].starts_with(b"\\u") {
                        self.at += 2;
                        code = 0x10000 + ((code - 0xD800) << 10) + (self.code().wrapping_sub(0xDC00) & 0x3FF);
                    }
                    char::from_u32(code).unwrap_or('\u{fffd}')
                }
                other => other as char,
            };
            made.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes());
        }
        self.at += 1;
        String::from_utf8_lossy(&made).into_owned()
    }
}

fn quote(out: &mut String, text: &str) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' | '\\' => {
                out.push('\\');
                out.push(letter);
            }
            control if (control as u32) < 0x20 => out.push_str(&format!("\\u{:04x}", control as u32)),
            other => out.push(other),
        }
    }
    out.push('"');
}

pub trait FromJson: Sized {
    fn from_json(value: Json) -> Self;
}
pub trait ToJson {
    fn write_json(&self, out: &mut String);
}

macro_rules! whole_numbers {
    ($($kind:ty)*) => {$(
        impl FromJson for $kind {
            fn from_json(value: Json) -> Self {
                match value {
                    Json::Number(digits) => {
                        digits.parse().unwrap_or_else(|_| fail(&format!("an argument is no {}: {}", stringify!($kind), digits)))
                    }
                    _ => fail("an argument is no number"),
                }
            }
        }
        impl ToJson for $kind {
            fn write_json(&self, out: &mut String) { out.push_str(&self.to_string()); }
        }
    )*};
}
whole_numbers!(i8 i16 i32 i64 i128 isize u8 u16 u32 u64 u128 usize);
macro_rules! floats {
    ($($kind:ty)*) => {$(
        impl FromJson for $kind {
            fn from_json(value: Json) -> Self {
                match value {
                    Json::Number(digits) => digits.parse().unwrap_or_else(|_| fail("an argument is no number")),
                    _ => fail("an argument is no number"),
                }
            }
        }
        impl ToJson for $kind {
            fn write_json(&self, out: &mut String) {
                if !self.is_finite() { fail("returned a number that is not finite"); }
                out.push_str(&format!("{:e}", self));
            }
        }
    )*};
}
floats!(f32 f64);

impl FromJson for bool {
    fn from_json(value: Json) -> Self {
        match value {
            Json::Truth(truth) => truth,
            _ => fail("an argument is no truth value"),
        }
    }
}
impl ToJson for bool {
    fn write_json(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }
}
impl FromJson for String {
    fn from_json(value: Json) -> Self {
        match value {
            Json::Text(text) => text,
            _ => fail("an argument is no text"),
        }
    }
}
impl ToJson for String {
    fn write_json(&self, out: &mut String) {
        quote(out, self);
    }
}
impl ToJson for str {
    fn write_json(&self, out: &mut String) {
        quote(out, self);
    }
}
impl FromJson for char {
    fn from_json(value: Json) -> Self {
        let text = <String as FromJson>::from_json(value);
        let mut letters = text.chars();
        match (letters.next(), letters.next()) {
            (Some(letter), None) => letter,
            _ => fail("an argument is no single letter"),
        }
    }
}
impl ToJson for char {
    fn write_json(&self, out: &mut String) {
        quote(out, &self.to_string());
    }
}
impl FromJson for () {
    fn from_json(_: Json) -> Self {}
}
impl ToJson for () {
    fn write_json(&self, out: &mut String) {
        out.push_str("null");
    }
}
impl<T: FromJson> FromJson for Option<T> {
    fn from_json(value: Json) -> Self {
        match value {
            Json::Null => None,
            other => Some(T::from_json(other)),
        }
    }
}
impl<T: ToJson> ToJson for Option<T> {
    fn write_json(&self, out: &mut String) {
        match self {
            Some(value) => value.write_json(out),
            None => out.push_str("null"),
        }
    }
}
impl<T: FromJson> FromJson for Box<T> {
    fn from_json(value: Json) -> Self {
        Box::new(T::from_json(value))
    }
}
impl<T: ToJson + ?Sized> ToJson for Box<T> {
    fn write_json(&self, out: &mut String) {
        (**self).write_json(out);
    }
}
impl<T: ToJson, E: std::fmt::Debug> ToJson for Result<T, E> {
    fn write_json(&self, out: &mut String) {
        match self {
            Ok(value) => value.write_json(out),
            Err(error) => fail(&format!("returned an error: {:?}", error)),
        }
    }
}

fn items<T: FromJson>(value: Json) -> impl Iterator<Item = T> {
    match value {
        Json::List(items) => items.into_iter().map(T::from_json),
        _ => fail("an argument is no list"),
    }
}
fn write_items<'a, T: ToJson + 'a>(out: &mut String, values: impl Iterator<Item = &'a T>) {
    let mut between = '[';
    for value in values {
        out.push(between);
        value.write_json(out);
        between = ',';
    }
    out.push_str(if between == '[' { "[]" } else { "]" });
}
macro_rules! sequences {
    ($($kind:ident [$($bound:tt)*])*) => {$(
        impl<T: FromJson $($bound)*> FromJson for $kind<T> {
            fn from_json(value: Json) -> Self { items(value).collect() }
        }
        impl<T: ToJson> ToJson for $kind<T> {
            fn write_json(&self, out: &mut String) { write_items(out, self.iter()); }
        }
    )*};
}
sequences!(Vec [] VecDeque [] HashSet [+ Eq + Hash] BTreeSet [+ Ord]);
impl<T: ToJson> ToJson for [T] {
    fn write_json(&self, out: &mut String) {
        write_items(out, self.iter());
    }
}
impl<T: FromJson, const N: usize> FromJson for [T; N] {
    fn from_json(value: Json) -> Self {
        let made: Vec<T> = items(value).collect();
        made.try_into().unwrap_or_else(|_| fail("an argument is of another length"))
    }
}
impl<T: ToJson, const N: usize> ToJson for [T; N] {
    fn write_json(&self, out: &mut String) {
        write_items(out, self.iter());
    }
}

fn pairs<K: FromJson, V: FromJson>(value: Json) -> Vec<(K, V)> {
    let as_number = !["String", "char", "str"].iter().any(|kind| std::any::type_name::<K>().ends_with(kind));
    match value {
        Json::Object(items) => items
            .into_iter()
            .map(|(name, item)| (K::from_json(if as_number { Json::Number(name) } else { Json::Text(name) }), V::from_json(item)))
            .collect(),
        _ => fail("an argument is no object"),
    }
}
fn write_pairs<'a, K: ToJson + 'a, V: ToJson + 'a>(out: &mut String, values: impl Iterator<Item = (&'a K, &'a V)>) {
    let mut between = '{';
    for (name, item) in values {
        out.push(between);
        let mut written = String::new();
        name.write_json(&mut written);
        if written.starts_with('"') {
            out.push_str(&written);
        } else {
            quote(out, &written);
        }
        out.push(':');
        item.write_json(out);
        between = ',';
    }
    out.push_str(if between == '{' { "{}" } else { "}" });
}
macro_rules! maps {
    ($($kind:ident [$($bound:tt)*])*) => {$(
        impl<K: FromJson $($bound)*, V: FromJson> FromJson for $kind<K, V> {
            fn from_json(value: Json) -> Self { pairs(value).into_iter().collect() }
        }
        impl<K: ToJson, V: ToJson> ToJson for $kind<K, V> {
            fn write_json(&self, out: &mut String) { write_pairs(out, self.iter()); }
        }
    )*};
}
maps!(HashMap [+ Eq + Hash] BTreeMap [+ Ord]);

macro_rules! tuples {
    ($(($($kind:ident $place:tt)*))*) => {$(
        impl<$($kind: FromJson),*> FromJson for ($($kind,)*) {
            fn from_json(value: Json) -> Self {
                match value {
                    Json::List(items) if items.len() == [$($place),*].len() => {
                        let mut items = items.into_iter();
                        ($($kind::from_json(items.next().unwrap()),)*)
                    }
                    _ => fail("an argument is no list of this length"),
                }
            }
        }
        impl<$($kind: ToJson),*> ToJson for ($($kind,)*) {
            fn write_json(&self, out: &mut String) {
                let mut between = '[';
                $(
                    out.push(between);
                    self.$place.write_json(out);
                    between = ',';
                )*
                let _ = between;
                out.push(']');
            }
        }
    )*};
}
tuples!((A 0) (A 0 B 1) (A 0 B 1 C 2) (A 0 B 1 C 2 D 3) (A 0 B 1 C 2 D 3 E 4) (A 0 B 1 C 2 D 3 E 4 F 5));

impl FromJson for &'static str {
    fn from_json(value: Json) -> Self {
        Box::leak(<String as FromJson>::from_json(value).into_boxed_str())
    }
}
impl<T: FromJson> FromJson for &'static [T] {
    fn from_json(value: Json) -> Self {
        Box::leak(<Vec<T> as FromJson>::from_json(value).into_boxed_slice())
    }
}
impl<T: FromJson> FromJson for &'static mut [T] {
    fn from_json(value: Json) -> Self {
        Box::leak(<Vec<T> as FromJson>::from_json(value).into_boxed_slice())
    }
}
impl<T: FromJson> FromJson for &'static T {
    fn from_json(value: Json) -> Self {
        Box::leak(Box::new(T::from_json(value)))
    }
}
impl<T: FromJson> FromJson for &'static mut T {
    fn from_json(value: Json) -> Self {
        Box::leak(Box::new(T::from_json(value)))
    }
}
impl<T: ToJson + ?Sized> ToJson for &T {
    fn write_json(&self, out: &mut String) {
        (**self).write_json(out);
    }
}
impl<T: ToJson + ?Sized> ToJson for &mut T {
    fn write_json(&self, out: &mut String) {
        (**self).write_json(out);
    }
}

pub trait Callable<Arguments, Returned> {
    fn call(self, arguments: Vec<Json>) -> Returned;
}
macro_rules! callables {
    ($(($($kind:ident)*) $count:literal)*) => {$(
        impl<Function, Returned, $($kind: FromJson),*> Callable<($($kind,)*), Returned> for Function
        where
            Function: FnOnce($($kind),*) -> Returned,
        {
            #[allow(unused)]
            fn call(self, arguments: Vec<Json>) -> Returned {
                if arguments.len() != $count {
                    fail(&format!("takes {} arguments, not {}", $count, arguments.len()));
                }
                let mut arguments = arguments.into_iter();
                self($($kind::from_json(arguments.next().unwrap())),*)
            }
        }
    )*};
}
callables!(() 0 (A) 1 (A B) 2 (A B C) 3 (A B C D) 4 (A B C D E) 5 (A B C D E F) 6 (A B C D E F G) 7 (A B C D E F G H) 8);

pub fn answer<Arguments, Returned: ToJson>(function: impl Callable<Arguments, Returned>) {
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input).unwrap_or_else(|_| fail("no arguments"));
    let arguments = match (Cursor { letters: &input, at: 0 }).value() {
        Json::List(arguments) => arguments,
        _ => fail("no list of arguments"),
    };
    let mut out = String::from("\n");
    function.call(arguments).write_json(&mut out);
    out.push('\n');
    let _ = std::io::stdout().write_all(out.as_bytes());
    let _ = std::io::stdout().flush();
    std::process::exit(0);
}
