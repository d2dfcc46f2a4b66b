package route

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

// TestDocs compares the table of the documentation with the one that is obeyed.
func TestDocs(t *testing.T) {
	data, err := os.ReadFile("../../docs/ingress.md")
	if err != nil {
		t.Fatal(err)
	}
	_, got, ok := strings.Cut(string(data), "| annotation | what it does |\n|---|---|\n")
	if want := docs(); !ok || got != want {
		t.Errorf("docs/ingress.md does not end with the table of annotations.go:\n%s", want)
	}
}

func docs() string {
	var out strings.Builder
	for _, a := range Annotations {
		mark, does := "", a.Does
		if a.Protects() {
			mark = " ●"
		}
		if a.Refused() {
			does = "refused: " + does
		}
		fmt.Fprintf(&out, "| `%s`%s | %s |\n", a.Name, mark, does)
	}
	return out.String()
}
