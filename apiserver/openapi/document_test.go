package openapi

import (
	"runtime"
	"testing"
)

// TestReadersShareADocument has two who read at the same time, and nobody after
// them.
func TestReadersShareADocument(t *testing.T) {
	d := &document{build: func() ([]byte, error) { return make([]byte, 1<<20), nil }}
	data, _, _, err := d.form(false)
	if err != nil {
		t.Fatal(err)
	}
	read := func() *[]byte {
		plain, err := d.expanded(data, false)
		if err != nil {
			t.Fatal(err)
		}
		return plain
	}
	first, second := read(), read()
	if len(*first) != 1<<20 || &(*first)[0] != &(*second)[0] {
		t.Error("two readers have a copy each")
	}
	runtime.KeepAlive(first)
	runtime.KeepAlive(second)
	runtime.GC()
	if d.plain[false].Value() != nil {
		t.Error("the document is kept after all have read it")
	}
}
