package request

import (
	"maps"
	"testing"
)

func TestAnnotate(t *testing.T) {
	ctx := WithNotes(t.Context(), nil)
	for _, a := range [][2]string{{"example.com/a", "first"}, {"example.com/a", "second"}, {"nodomain", "x"}, {"example.com/a/b", "x"},
		{"example.com/bad key", "x"}, {"Bad_Domain/a", "x"}, {"/a", "x"}, {"example.com/", "x"}, {"", "x"}} {
		Annotate(ctx, a[0], a[1])
	}
	if got, want := Annotations(ctx), map[string]string{"example.com/a": "first"}; !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
