// Calls one function with arguments read as JSON from standard input and writes what it returns as the last line.
//
// A parameter's type says how its argument is read: truth values, numbers, letters (rune, byte), texts, slices, arrays, maps,
// pointers (null is nil), structures (a list with their fields), any. Several results are a list; a last one of type error
// has to be nil and is left out.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"
	"unsafe"
)

func sapienceFail(reason string) {
	fmt.Fprintln(os.Stderr, reason)
	os.Exit(3)
}

// sapienceRead makes a value of the type from JSON: nil, bool, json.Number, string, []any or map[string]any.
func sapienceRead(given any, wanted reflect.Type) reflect.Value {
	made := reflect.New(wanted).Elem()
	switch wanted.Kind() {
	case reflect.Interface:
		if given != nil {
			made.Set(reflect.ValueOf(sapienceNatural(given)))
		}
		return made
	case reflect.Pointer:
		if given != nil {
			made.Set(reflect.New(wanted.Elem()))
			made.Elem().Set(sapienceRead(given, wanted.Elem()))
		}
		return made
	}
	switch value := given.(type) {
	case nil:
		if wanted.Kind() == reflect.Slice || wanted.Kind() == reflect.Map {
			return made
		}
	case bool:
		if wanted.Kind() == reflect.Bool {
			made.SetBool(value)
			return made
		}
	case string:
		letter, size := utf8.DecodeRuneInString(value)
		switch wanted.Kind() {
		case reflect.String:
			made.SetString(value)
			return made
		case reflect.Int32:
			if size == len(value) && size > 0 {
				made.SetInt(int64(letter))
				return made
			}
		case reflect.Uint8:
			if len(value) == 1 {
				made.SetUint(uint64(value[0]))
				return made
			}
		}
	case json.Number:
		if sapienceNumber(string(value), made) {
			return made
		}
	case []any:
		switch {
		case wanted.Kind() == reflect.Slice:
			made.Set(reflect.MakeSlice(wanted, len(value), len(value)))
		case wanted.Kind() == reflect.Array && wanted.Len() == len(value):
		case wanted.Kind() == reflect.Struct && wanted.NumField() == len(value):
			for place, item := range value {
				field := made.Field(place)
				field = reflect.NewAt(field.Type(), unsafe.Pointer(field.UnsafeAddr())).Elem() // as settable as an exported one
				field.Set(sapienceRead(item, field.Type()))
			}
			return made
		case wanted.Kind() == reflect.Map: // a set
			made.Set(reflect.MakeMap(wanted))
			kept := reflect.Zero(wanted.Elem())
			if wanted.Elem().Kind() == reflect.Bool {
				kept = reflect.ValueOf(true).Convert(wanted.Elem())
			}
			for _, item := range value {
				made.SetMapIndex(sapienceRead(item, wanted.Key()), kept)
			}
			return made
		default:
			sapienceFail("an argument is no " + wanted.String())
		}
		for place, item := range value {
			made.Index(place).Set(sapienceRead(item, wanted.Elem()))
		}
		return made
	case map[string]any:
		if wanted.Kind() == reflect.Map {
			made.Set(reflect.MakeMap(wanted))
			for name, item := range value {
				var key any = name
				if kind := wanted.Key().Kind(); kind != reflect.String && kind != reflect.Interface && utf8.RuneCountInString(name) != 1 ||
					kind != reflect.String && strings.Trim(name, "0123456789") == "" {
					key = json.Number(name)
				}
				made.SetMapIndex(sapienceRead(key, wanted.Key()), sapienceRead(item, wanted.Elem()))
			}
			return made
		}
	}
	sapienceFail(fmt.Sprintf("an argument is no %s: %v", wanted, given))
	return made
}

func sapienceNumber(digits string, made reflect.Value) bool {
	size := 0
	if made.CanInt() || made.CanUint() || made.CanFloat() {
		size = made.Type().Bits()
	}
	if made.CanInt() {
		number, err := strconv.ParseInt(digits, 10, size)
		made.SetInt(number)
		return err == nil
	}
	if made.CanUint() {
		number, err := strconv.ParseUint(digits, 10, size)
		made.SetUint(number)
		return err == nil
	}
	if made.CanFloat() {
		number, err := strconv.ParseFloat(digits, size)
		made.SetFloat(number)
		return err == nil
	}
	return false
}

// sapienceNatural is what stands where the type says nothing: int for whole numbers, float64 for others.
func sapienceNatural(given any) any {
	switch value := given.(type) {
	case json.Number:
		if whole, err := strconv.Atoi(string(value)); err == nil {
			return whole
		}
		number, _ := value.Float64()
		return number
	case []any:
		for place, item := range value {
			value[place] = sapienceNatural(item)
		}
	case map[string]any:
		for name, item := range value {
			value[name] = sapienceNatural(item)
		}
	}
	return given
}

func sapienceWrite(value reflect.Value) string {
	if !value.IsValid() {
		return "null"
	}
	switch value.Kind() {
	case reflect.Interface, reflect.Pointer:
		if value.IsNil() {
			return "null"
		}
		return sapienceWrite(value.Elem())
	case reflect.Bool:
		return strconv.FormatBool(value.Bool())
	case reflect.String:
		return sapienceQuote(value.String())
	case reflect.Slice, reflect.Array:
		parts := make([]string, value.Len())
		for place := range parts {
			parts[place] = sapienceWrite(value.Index(place))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case reflect.Struct:
		parts := make([]string, value.NumField())
		for place := range parts {
			parts[place] = sapienceWrite(value.Field(place))
		}
		return "[" + strings.Join(parts, ",") + "]"
	case reflect.Map:
		parts := []string{}
		for _, key := range value.MapKeys() {
			name := sapienceWrite(key)
			if !strings.HasPrefix(name, "\"") {
				name = sapienceQuote(name)
			}
			parts = append(parts, name+":"+sapienceWrite(value.MapIndex(key)))
		}
		return "{" + strings.Join(parts, ",") + "}"
	}
	if value.CanInt() {
		return strconv.FormatInt(value.Int(), 10)
	}
	if value.CanUint() {
		return strconv.FormatUint(value.Uint(), 10)
	}
	if value.CanFloat() && !math.IsNaN(value.Float()) && !math.IsInf(value.Float(), 0) {
		return strconv.FormatFloat(value.Float(), 'g', -1, value.Type().Bits())
	}
	sapienceFail("returned a " + value.Type().String() + " that is no plain value")
	return ""
}

func sapienceQuote(text string) string {
	quoted, _ := json.Marshal(text)
	return string(quoted)
}

func sapienceCall(function any) {
	input, _ := io.ReadAll(os.Stdin)
	decoder := json.NewDecoder(bytes.NewReader(input))
	decoder.UseNumber()
	var given []any
	if err := decoder.Decode(&given); err != nil {
		sapienceFail("no list of arguments")
	}
	called := reflect.ValueOf(function)
	kind := called.Type()
	if kind.IsVariadic() || kind.NumIn() != len(given) {
		sapienceFail(fmt.Sprintf("takes %d arguments, not %d", kind.NumIn(), len(given)))
	}
	arguments := make([]reflect.Value, len(given))
	for place := range given {
		arguments[place] = sapienceRead(given[place], kind.In(place))
	}
	results := called.Call(arguments)
	if last := len(results) - 1; last >= 0 && kind.Out(last) == reflect.TypeOf((*error)(nil)).Elem() {
		if !results[last].IsNil() {
			sapienceFail(fmt.Sprint(results[last]))
		}
		results = results[:last]
	}
	parts := []string{}
	for _, result := range results {
		parts = append(parts, sapienceWrite(result))
	}
	answer := strings.Join(parts, ",")
	if len(parts) > 1 {
		answer = "[" + answer + "]"
	} else if len(parts) == 0 {
		answer = "null"
	}
	fmt.Fprintf(os.Stdout, "\n%s\n", answer)
	os.Exit(0)
}
