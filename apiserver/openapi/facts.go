package openapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"sync"
)

//go:embed facts.txt
var factsText string

// facts are what upstream's documents say but neither the Go types nor the
// schema of the apply configurations do: there they are comments.
type facts struct {
	enums        map[string]map[string]string // texts of values by Go type: package path, dot, name
	required     map[string]bool              // by definition.field, where it is not what omitempty says
	extensions   map[string]map[string]any    // by definition or definition.field
	defaults     map[string]any               // by definition.field
	descriptions map[string]string            // by definition or definition.field
	spaced       map[string]bool              // by definition.field: an empty line ends the description
}

func (f *facts) isRequired(key string, otherwise bool) bool {
	if v, ok := f.required[key]; ok {
		return v
	}
	return otherwise
}

// enum are the values of t or of what it points to, with their texts; nil: any
// value will do.
func (f *facts) enum(t reflect.Type) map[string]string {
	if t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return f.enums[t.PkgPath()+"."+t.Name()]
}

// loadFacts reads facts.txt: a word, what it is about, and the rest of the
// line.
var loadFacts = sync.OnceValue(func() *facts {
	f := &facts{
		enums: make(map[string]map[string]string), required: make(map[string]bool), extensions: make(map[string]map[string]any),
		defaults: make(map[string]any), descriptions: make(map[string]string), spaced: make(map[string]bool),
	}
	for line := range strings.Lines(factsText) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		about, value, _ := strings.Cut(rest, " ")
		if err := f.add(word, about, value); err != nil {
			panic(fmt.Sprintf("openapi: facts.txt: %s: %v", line, err))
		}
	}
	return f
})

func (f *facts) add(word, about, value string) (err error) {
	switch word {
	case "enum":
		f.enums[about], err = parse[map[string]string](value)
	case "required", "optional":
		f.required[about] = word == "required"
	case "extend":
		f.extensions[about], err = parse[map[string]any](value)
	case "default":
		f.defaults[about], err = parse[any](value)
	case "spaced":
		f.spaced[about] = true
	case "describe":
		f.descriptions[about], err = parse[string](value)
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return err
}

func parse[T any](text string) (v T, err error) {
	err = json.Unmarshal([]byte(text), &v)
	return v, err
}
