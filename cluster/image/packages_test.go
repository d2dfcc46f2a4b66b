package image

import (
	"reflect"
	"testing"
)

// TestParseDepends has alternatives, the last of which is a virtual package, before
// a dependency like any other.
func TestParseDepends(t *testing.T) {
	got := parseDepends(`iproute2
 |Depends: debconf
  Depends: <debconf-2.0>
    cdebconf
    debconf
  Depends: libbpf1
  PreDepends: libc6:any
  Depends: <awk>
    gawk
libbpf1
 |Depends: libelf1
  Depends: libelf2
`)
	want := map[string][]string{"iproute2": {"debconf", "libbpf1", "libc6"}, "libbpf1": {"libelf1"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
