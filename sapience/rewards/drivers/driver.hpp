// Calls one function with arguments read as JSON from standard input and writes what it returns as the last line.
//
// A parameter's type says how its argument is read: truth values, numbers, letters, texts, vector, deque, list, array, set,
// map (ordered or not), pair, tuple, optional; of C: texts, and pointers to numbers or texts followed by their length.
// A function of C that returns a pointer to numbers or texts writes their count where its last parameter points.

#pragma once
#include <bits/stdc++.h>

namespace sapience_driver {

[[noreturn]] inline void fail(const std::string& reason) {
  std::fflush(nullptr);
  std::fprintf(stderr, "%s\n", reason.c_str());
  std::_Exit(3);
}

// Reads JSON from memory; a value of another kind than the one asked for ends the program.
struct Cursor {
  const char* at;
  const char* end;

  char next() {
    while (at < end && std::isspace(static_cast<unsigned char>(*at))) ++at;
    return at < end ? *at : '\0';
  }
  bool take(char wanted) {
    if (next() != wanted) return false;
    ++at;
    return true;
  }
  void expect(char wanted, const char* kind) {
    if (!take(wanted)) fail(std::string("an argument is no ") + kind);
  }
  bool word(const char* wanted) {
    next();
    std::size_t length = std::strlen(wanted);
    if (static_cast<std::size_t>(end - at) < length || std::strncmp(at, wanted, length) != 0) return false;
    at += length;
    return true;
  }
  std::string number() {
    next();
    const char* start = at;
    while (at < end && (std::isdigit(static_cast<unsigned char>(*at)) || std::strchr("+-.eE", *at))) ++at;
    if (at == start) fail("an argument is no number");
    return std::string(start, at);
  }
  unsigned hexadecimal() {
    if (end - at < 4) fail("an argument is no text");
    unsigned code = std::stoul(std::string(at, at + 4), nullptr, 16);
    at += 4;
    return code;
  }
  std::string text() {
    expect('"', "text");
    std::string made;
    while (at < end && *at != '"') {
      char letter = *at++;
      if (letter != '\\') {
        made += letter;
        continue;
      }
      char escaped = at < end ? *at++ : '\0';
      switch (escaped) {
        case 'n': made += '\n'; break;
        case 't': made += '\t'; break;
        case 'r': made += '\r'; break;
        case 'b': made += '\b'; break;
        case 'f': made += '\f'; break;
        case 'u': append(made); break;
        default: made += escaped;
      }
    }
    expect('"', "text");
    return made;
  }
  void append(std::string& made) {
    unsigned code = hexadecimal();
    if (code >= 0xD800 && code < 0xDC00 && end - at >= 6 && at[0] == '\\' && at[1] == 'u') {
      at += 2;
      code = 0x10000 + ((code - 0xD800) << 10) + (hexadecimal() - 0xDC00);
    }
    if (code < 0x80) {
      made += static_cast<char>(code);
      return;
    }
    int more = code < 0x800 ? 1 : code < 0x10000 ? 2 : 3;
    made += static_cast<char>((0xFF << (7 - more) & 0xFF) | code >> 6 * more);
    while (more--) made += static_cast<char>(0x80 | (code >> 6 * more & 0x3F));
  }
};

// A value's type -> how it is read and written. `key` makes one from a name in a JSON object.
template <class T, class = void>
struct Value;

template <class T>
T read(Cursor& cursor) {
  return Value<std::remove_cv_t<T>>::read(cursor);
}
template <class T>
void write(std::string& out, const T& value) {
  Value<std::remove_cv_t<T>>::write(out, value);
}
inline void quote(std::string& out, const std::string& text) {
  out += '"';
  for (unsigned char letter : text) {
    if (letter == '"' || letter == '\\') out += '\\';
    if (letter >= 0x20) {
      out += static_cast<char>(letter);
    } else {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", letter);
      out += escaped;
    }
  }
  out += '"';
}

template <>
struct Value<bool> {
  static bool read(Cursor& cursor) {
    if (cursor.word("true")) return true;
    if (!cursor.word("false")) fail("an argument is no truth value");
    return false;
  }
  static void write(std::string& out, bool value) { out += value ? "true" : "false"; }
};
template <>
struct Value<char> {
  static char read(Cursor& cursor) {
    std::string text = cursor.text();
    if (text.size() != 1) fail("an argument is no single letter");
    return text[0];
  }
  static void write(std::string& out, char value) { quote(out, std::string(1, value)); }
};
template <class T>
struct Value<T, std::enable_if_t<std::is_integral_v<T> && !std::is_same_v<T, bool> && !std::is_same_v<T, char>>> {
  static T read(Cursor& cursor) {
    std::string digits = cursor.number();
    T value{};
    auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size()) fail("an argument does not fit into its type: " + digits);
    return value;
  }
  static void write(std::string& out, T value) { out += std::to_string(value); }
};
template <class T>
struct Value<T, std::enable_if_t<std::is_floating_point_v<T>>> {
  static T read(Cursor& cursor) { return static_cast<T>(std::strtold(cursor.number().c_str(), nullptr)); }
  static void write(std::string& out, T value) {
    if (!std::isfinite(value)) fail("returned a number that is not finite");
    char digits[64];
    std::snprintf(digits, sizeof digits, "%.*g", std::numeric_limits<T>::max_digits10 < 17 ? 9 : 17, static_cast<double>(value));
    out += digits;
  }
};
template <>
struct Value<std::string> {
  static std::string read(Cursor& cursor) { return cursor.text(); }
  static void write(std::string& out, const std::string& value) { quote(out, value); }
};
template <>
struct Value<std::string_view> {
  static std::string_view read(Cursor& cursor) { return *new std::string(cursor.text()); }
  static void write(std::string& out, std::string_view value) { quote(out, std::string(value)); }
};
template <>
struct Value<const char*> {
  static const char* read(Cursor& cursor) { return cursor.word("null") ? nullptr : (new std::string(cursor.text()))->c_str(); }
  static void write(std::string& out, const char* value) { value ? quote(out, value) : void(out += "null"); }
};
template <>
struct Value<char*> {
  static char* read(Cursor& cursor) { return const_cast<char*>(Value<const char*>::read(cursor)); }
  static void write(std::string& out, const char* value) { Value<const char*>::write(out, value); }
};
template <>
struct Value<std::nullptr_t> {
  static std::nullptr_t read(Cursor& cursor) {
    if (!cursor.word("null")) fail("an argument is not null");
    return nullptr;
  }
  static void write(std::string& out, std::nullptr_t) { out += "null"; }
};
template <class T>
struct Value<std::optional<T>> {
  static std::optional<T> read(Cursor& cursor) {
    if (cursor.word("null")) return std::nullopt;
    return sapience_driver::read<T>(cursor);
  }
  static void write(std::string& out, const std::optional<T>& value) {
    if (value) {
      sapience_driver::write(out, *value);
    } else {
      out += "null";
    }
  }
};

template <class T, class Take>
void items(Cursor& cursor, Take take) {
  cursor.expect('[', "list");
  if (cursor.take(']')) return;
  do {
    take(sapience_driver::read<T>(cursor));
  } while (cursor.take(','));
  cursor.expect(']', "list");
}
template <class Items>
void write_items(std::string& out, const Items& values) {
  out += '[';
  bool first = true;
  for (const auto& value : values) {
    if (!first) out += ',';
    first = false;
    sapience_driver::write<typename Items::value_type>(out, value);
  }
  out += ']';
}

template <class T>
struct Sequence {
  static T read(Cursor& cursor) {
    T made;
    items<typename T::value_type>(cursor, [&](auto&& item) { made.insert(made.end(), std::move(item)); });
    return made;
  }
  static void write(std::string& out, const T& value) { write_items(out, value); }
};
template <class T> struct Value<std::vector<T>> : Sequence<std::vector<T>> {};
template <class T> struct Value<std::deque<T>> : Sequence<std::deque<T>> {};
template <class T> struct Value<std::list<T>> : Sequence<std::list<T>> {};
template <class T> struct Value<std::set<T>> : Sequence<std::set<T>> {};
template <class T> struct Value<std::multiset<T>> : Sequence<std::multiset<T>> {};
template <class T> struct Value<std::unordered_set<T>> : Sequence<std::unordered_set<T>> {};
template <class T, std::size_t N>
struct Value<std::array<T, N>> {
  static std::array<T, N> read(Cursor& cursor) {
    std::array<T, N> made{};
    std::size_t count = 0;
    items<T>(cursor, [&](T item) {
      if (count == N) fail("an argument is too long");
      made[count++] = std::move(item);
    });
    if (count != N) fail("an argument is too short");
    return made;
  }
  static void write(std::string& out, const std::array<T, N>& value) { write_items(out, value); }
};

template <class... T>
struct Value<std::tuple<T...>> {
  static std::tuple<T...> read(Cursor& cursor) {
    cursor.expect('[', "list");
    bool first = true;
    auto one = [&](auto* type) {
      if (!first) cursor.expect(',', "list that is long enough");
      first = false;
      return sapience_driver::read<std::remove_pointer_t<decltype(type)>>(cursor);
    };
    std::tuple<T...> made{one(static_cast<T*>(nullptr))...};
    cursor.expect(']', "list that is short enough");
    return made;
  }
  static void write(std::string& out, const std::tuple<T...>& value) {
    out += '[';
    bool first = true;
    std::apply([&](const auto&... part) { ((out += first ? "" : ",", first = false, sapience_driver::write(out, part)), ...); }, value);
    out += ']';
  }
};
template <class A, class B>
struct Value<std::pair<A, B>> {
  static std::pair<A, B> read(Cursor& cursor) {
    auto [first, second] = sapience_driver::read<std::tuple<A, B>>(cursor);
    return {std::move(first), std::move(second)};
  }
  static void write(std::string& out, const std::pair<A, B>& value) {
    sapience_driver::write(out, std::tuple<A, B>(value.first, value.second));
  }
};

template <class K>
K key(const std::string& name) {
  std::string json = name;
  if constexpr (std::is_same_v<K, std::string> || std::is_same_v<K, char>) {
    json.clear();
    quote(json, name);
  }
  Cursor cursor{json.data(), json.data() + json.size()};
  return read<K>(cursor);
}
template <class Map>
struct Mapping {
  using K = typename Map::key_type;
  static Map read(Cursor& cursor) {
    Map made;
    cursor.expect('{', "object");
    if (cursor.take('}')) return made;
    do {
      K name = key<K>(cursor.text());
      cursor.expect(':', "object");
      made.emplace(std::move(name), sapience_driver::read<typename Map::mapped_type>(cursor));
    } while (cursor.take(','));
    cursor.expect('}', "object");
    return made;
  }
  static void write(std::string& out, const Map& value) {
    out += '{';
    bool first = true;
    for (const auto& [name, item] : value) {
      if (!first) out += ',';
      first = false;
      std::string written;
      sapience_driver::write<K>(written, name);
      if (written[0] == '"') {
        out += written;
      } else {
        quote(out, written);
      }
      out += ':';
      sapience_driver::write<typename Map::mapped_type>(out, item);
    }
    out += '}';
  }
};
template <class K, class V> struct Value<std::map<K, V>> : Mapping<std::map<K, V>> {};
template <class K, class V> struct Value<std::unordered_map<K, V>> : Mapping<std::unordered_map<K, V>> {};

// Parameters of C: an array is a pointer and, in the next parameter, its length.
template <class T>
inline constexpr bool is_array = std::is_pointer_v<T> && !std::is_same_v<std::remove_cv_t<std::remove_pointer_t<T>>, char>;

struct Arguments {
  Cursor& cursor;
  std::size_t total;
  bool returns_array;
  std::size_t place = 0;
  bool length_follows = false;
  std::size_t length = 0;
  long long count = 0;
  bool first = true;

  void separate() {
    if (!first) cursor.expect(',', "list: there are fewer arguments than parameters");
    first = false;
  }
  template <class T>
  std::remove_cv_t<T> next() {
    using Plain = std::remove_cv_t<T>;
    ++place;
    if constexpr (is_array<Plain>) {
      using Item = std::remove_pointer_t<Plain>;
      if (returns_array && place == total) return reinterpret_cast<Plain>(&count);
      separate();
      auto* held = new std::vector<std::conditional_t<std::is_same_v<std::remove_cv_t<Item>, bool>, char, std::remove_cv_t<Item>>>;
      items<std::remove_cv_t<Item>>(cursor, [&](auto item) { held->push_back(item); });
      length = held->size();
      length_follows = true;
      held->resize(length + 1);
      return reinterpret_cast<Plain>(held->data());
    } else if constexpr (std::is_integral_v<Plain> && !std::is_same_v<Plain, bool> && !std::is_same_v<Plain, char>) {
      if (length_follows) {
        length_follows = false;
        return static_cast<Plain>(length);
      }
      separate();
      return read<Plain>(cursor);
    } else {
      separate();
      return read<Plain>(cursor);
    }
  }
};

template <class R>
void write_result(std::string& out, R value, const Arguments& arguments) {
  using Plain = std::remove_cv_t<std::remove_reference_t<R>>;
  if constexpr (is_array<Plain>) {
    using Item = std::remove_cv_t<std::remove_pointer_t<Plain>>;
    long long count = static_cast<int>(arguments.count);
    if (count < 0 || (count > 0 && value == nullptr)) fail("returned no array of the length that it says");
    out += '[';
    for (long long place = 0; place < count; ++place) {
      if (place) out += ',';
      write<Item>(out, value[place]);
    }
    out += ']';
  } else {
    write<Plain>(out, value);
  }
}

inline std::string standard_input() {
  std::string text;
  char piece[65536];
  for (std::size_t got; (got = std::fread(piece, 1, sizeof piece, stdin)) > 0;) text.append(piece, got);
  return text;
}

template <class Function, class R, class... A>
int call(Function function) {
  std::string input = standard_input();
  Cursor cursor{input.data(), input.data() + input.size()};
  cursor.expect('[', "list of arguments");
  Arguments arguments{cursor, sizeof...(A), is_array<std::remove_cv_t<std::remove_reference_t<R>>>};
  std::tuple<std::remove_cv_t<std::remove_reference_t<A>>...> held{
      arguments.template next<std::remove_cv_t<std::remove_reference_t<A>>>()...};
  cursor.expect(']', "list: there are more arguments than parameters");
  std::string out;
  std::apply(
      [&](auto&... argument) {
        if constexpr (std::is_void_v<R>) {
          function(std::forward<A>(static_cast<A&&>(argument))...);
          out = "null";
        } else {
          write_result<R>(out, function(std::forward<A>(static_cast<A&&>(argument))...), arguments);
        }
      },
      held);
  std::fflush(nullptr);
  std::cout.flush();
  out = "\n" + out + "\n";
  std::fwrite(out.data(), 1, out.size(), stdout);
  std::fflush(stdout);
  std::_Exit(0);
}
template <class R, class... A>
int answer(R (*function)(A...)) {
  return call<R (*)(A...), R, A...>(function);
}
template <class Class, class R, class... A>
int answer(R (Class::*method)(A...)) {
  static Class object;
  auto function = [method](A... argument) -> R { return (object.*method)(std::forward<A>(argument)...); };
  return call<decltype(function), R, A...>(function);
}
template <class Class, class R, class... A>
int answer(R (Class::*method)(A...) const) {
  static Class object;
  auto function = [method](A... argument) -> R { return (object.*method)(std::forward<A>(argument)...); };
  return call<decltype(function), R, A...>(function);
}

}  // namespace sapience_driver
