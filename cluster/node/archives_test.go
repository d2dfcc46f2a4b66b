package node

import (
	"os"
	"path/filepath"
	"testing"
)

func TestMark(t *testing.T) {
	tests := []struct {
		name  string
		names []string
		then  map[string]string // what the node had after the import
		now   map[string]string
		holds bool
	}{
		{"still there", []string{"a:1"}, map[string]string{"a:1": "sha256:1"}, map[string]string{"a:1": "sha256:1", "b:1": "sha256:2"}, true},
		{"replaced", []string{"a:1"}, map[string]string{"a:1": "sha256:1"}, map[string]string{"a:1": "sha256:2"}, false},
		{"removed", []string{"a:1"}, map[string]string{"a:1": "sha256:1"}, nil, false},
		{"one of two removed", []string{"a:1", "a:2"}, map[string]string{"a:1": "sha256:1", "a:2": "sha256:1"}, map[string]string{"a:1": "sha256:1"}, false},
		{"a name the runtime spells otherwise", []string{"a"}, map[string]string{"docker.io/library/a:latest": "sha256:1"}, map[string]string{"docker.io/library/a:latest": "sha256:1"}, false},
		{"no names", nil, nil, nil, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m := mark(filepath.Join(t.TempDir(), "mark"))
			if err := m.write(test.names, test.then); err != nil {
				t.Fatal(err)
			}
			if got := m.holds(test.now); got != test.holds {
				t.Errorf("the mark holds: got %v, want %v", got, test.holds)
			}
		})
	}
}

func TestMarkOfAChangedArchive(t *testing.T) {
	c := Config{Dir: t.TempDir()}
	archive := filepath.Join(c.Dir, "a.tar")
	var marks []mark
	for _, content := range []string{"one", "two, longer"} {
		if err := os.WriteFile(archive, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(archive)
		if err != nil {
			t.Fatal(err)
		}
		marks = append(marks, c.mark(archive, info))
	}
	if marks[0] == marks[1] {
		t.Errorf("an archive and what replaced it have the same mark, %s", marks[0])
	}
}
