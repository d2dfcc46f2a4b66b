package relational

import (
	"errors"
	"fmt"
	"testing"

	"github.com/skiff-k8s/skiff/apiserver/backend"
)

func TestDecide(t *testing.T) {
	current := map[string]int64{"/a": 5, "/b": 7}
	for _, c := range []struct {
		name   string
		head   Head
		seen   int64
		writes []Write
		expect []int64
		want   string // the plan's head and writes
		refuse []bool
	}{
		{"a key that is there and one that is not", Head{Revision: 9, Compacted: 2}, 9,
			[]Write{{Key: "/a", Value: []byte("1")}, {Key: "/c", Value: []byte("1")}}, []int64{5, 0},
			"10 /a, 11 /c; head 11, compacted 2", []bool{false, false}},
		{"one key several times", Head{Revision: 9}, 9,
			[]Write{{Key: "/a", Value: []byte("1")}, {Key: "/a", Value: []byte("2")}, {Key: "/a", Value: []byte("3")}}, []int64{5, 5, 10},
			"10 /a, 11 /a; head 11, compacted 0", []bool{false, true, false}},
		{"a key that is deleted and made again", Head{Revision: 9}, 9,
			[]Write{{Key: "/b"}, {Key: "/b"}, {Key: "/b", Value: []byte("1")}}, []int64{7, 7, backend.Absent},
			"10 /b, 11 /b; head 11, compacted 0", []bool{false, true, false}},
		{"nothing that may be written", Head{Revision: 9}, 9,
			[]Write{{Key: "/a"}}, []int64{4}, "head 9, compacted 0", []bool{true}},
		{"another server is ahead", Head{Revision: 12}, 9,
			[]Write{{Key: "/a", Value: []byte("1")}}, []int64{5}, "13 /a; head 13, compacted 0", []bool{false}},
		{"the database has lost commits", Head{Revision: 9, Compacted: 2}, 15,
			[]Write{{Key: "/a", Value: []byte("1")}}, []int64{5}, "17 /a; head 17, compacted 16", []bool{false}},
		{"the database has lost commits and nothing is written", Head{Revision: 9}, 15,
			[]Write{{Key: "/a"}}, []int64{4}, "head 16, compacted 16", []bool{true}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var batch []*request
			for i, w := range c.writes {
				batch = append(batch, newRequest(w, c.expect[i]))
			}
			p := decide(batch, c.head, c.seen, func(key string) int64 { return current[key] })
			got := ""
			for i, w := range p.writes {
				if i > 0 {
					got += ", "
				}
				got += fmt.Sprintf("%d %s", w.Revision, w.Key)
			}
			if got != "" {
				got += "; "
			}
			if got += fmt.Sprintf("head %d, compacted %d", p.head.Revision, p.head.Compacted); got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
			for i, r := range batch {
				if refused := errors.Is(r.err, backend.ErrConflict); refused != c.refuse[i] {
					t.Errorf("write %d: got %v, want a conflict: %v", i, r.err, c.refuse[i])
				}
			}
		})
	}
}

func TestPrefixEnd(t *testing.T) {
	for prefix, want := range map[string]string{
		"": lastKey, "/a/": "/a0", "/a\xff": "/b", "\xff\xff": lastKey, "a\x00": "a\x01", "/a\xfe": "/a\xff",
	} {
		if got := prefixEnd(prefix); got != want {
			t.Errorf("%q: got %q, want %q", prefix, got, want)
		}
	}
}

func TestContiguous(t *testing.T) {
	changes := []backend.Change{{Revision: 4}, {Revision: 5}, {Revision: 7}}
	if err := contiguous(3, changes[:2]); err != nil {
		t.Error(err)
	}
	if err := contiguous(3, changes); err == nil {
		t.Error("revision 6 is missing and was not missed")
	}
	if err := contiguous(2, changes[:1]); err == nil {
		t.Error("revision 3 is missing and was not missed")
	}
}
