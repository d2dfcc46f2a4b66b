package snapshot

import (
	"testing"
	"time"

	"github.com/skiff-k8s/skiff/apiserver/backend/etcd"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
)

// What is left out by default is as much as an engine can leave out in a moment, and where
// it takes time, as much as can have been written since the backup.
func TestDefaultBump(t *testing.T) {
	m := memory.New()
	defer m.Close()
	e := new(etcd.Backend)
	for _, c := range []struct {
		name string
		got  int64
		want int64
	}{
		{"memory", bumpOf(m, time.Minute), 1_000_000_000},
		{"etcd, a minute ago", bumpOf(e, time.Minute), 1_000_000},
		{"etcd, made on a machine whose clock is ahead", bumpOf(e, -time.Hour), 1_000_000},
		{"etcd, a day ago", bumpOf(e, 24*time.Hour), 8_640_000},
	} {
		if c.got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, c.got, c.want)
		}
	}
	// Backups of the last days are restored without another word.
	if most := e.MostSteps(); bumpOf(e, 5*24*time.Hour) > most {
		t.Errorf("a backup of five days ago is too old: at most %d are left out", most)
	}
}
