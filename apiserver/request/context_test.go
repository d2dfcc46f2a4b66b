package request

import (
	"maps"
	"testing"
)

func TestAnnotate(t *testing.T) {
	ctx, notes := WithNotes(t.Context(), nil)
	for _, a := range [][2]string{{"example.com/a", "first"}, {"example.com/a", "second"}, {"nodomain", "x"}, {"example.com/a/b", "x"},
		{"example.com/bad key", "x"}, {"Bad_Domain/a", "x"}, {"/a", "x"}, {"example.com/", "x"}, {"", "x"}} {
		Annotate(ctx, a[0], a[1])
	}
	got := make(map[string]string)
	notes.Annotations(func(key, value string) { got[key] = value })
	if want := map[string]string{"example.com/a": "first"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
