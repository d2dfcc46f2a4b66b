package openapi

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
)

//go:embed facts.txt
var factsText string

// facts are what upstream's documents say but neither the Go types nor the
// schema of the apply configurations do: there they are comments.
type facts struct {
	enums        map[string][]any          // by Go type: package path, dot, name
	required     map[string]bool           // by definition.field, where it is not what omitempty says
	extensions   map[string]map[string]any // by definition or definition.field
	defaults     map[string]any            // by definition.field
	descriptions map[string]string         // by definition or definition.field
}

func (f *facts) isRequired(key string, otherwise bool) bool {
	if v, ok := f.required[key]; ok {
		return v
	}
	return otherwise
}

// loadFacts reads facts.txt: a word, what it is about, and the rest of the
// line.
var loadFacts = sync.OnceValue(func() *facts {
	f := &facts{
		enums: make(map[string][]any), required: make(map[string]bool), extensions: make(map[string]map[string]any),
		defaults: make(map[string]any), descriptions: make(map[string]string),
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

func (f *facts) add(word, about, value string) error {
	switch word {
	case "enum":
		var v []any
		if err := json.Unmarshal([]byte(value), &v); err != nil {
			return err
		}
		f.enums[about] = v
	case "required", "optional":
		f.required[about] = word == "required"
	case "extend":
		var v map[string]any
		if err := json.Unmarshal([]byte(value), &v); err != nil {
			return err
		}
		f.extensions[about] = v
	case "default":
		var v any
		if err := json.Unmarshal([]byte(value), &v); err != nil {
			return err
		}
		f.defaults[about] = v
	case "describe":
		f.descriptions[about] = value
	default:
		return fmt.Errorf("unknown word %q", word)
	}
	return nil
}
