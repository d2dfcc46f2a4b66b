package runtime

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestSortPrimary: a pod's first address is of the node's primary family, whatever the runtime tells first.
func TestSortPrimary(t *testing.T) {
	for _, c := range []struct {
		primary   v1.IPFamily
		ips, want []string
	}{
		{v1.IPv4Protocol, []string{"fd00::5", "10.0.0.5"}, []string{"10.0.0.5", "fd00::5"}},
		{v1.IPv4Protocol, []string{"10.0.0.5", "fd00::5"}, []string{"10.0.0.5", "fd00::5"}},
		{v1.IPv6Protocol, []string{"10.0.0.5", "fd00::5"}, []string{"fd00::5", "10.0.0.5"}},
		{v1.IPv6Protocol, []string{"10.0.0.5"}, []string{"10.0.0.5"}},
		{v1.IPv6Protocol, []string{"10.0.0.5", "fd00::6", "fd00::5"}, []string{"fd00::6", "fd00::5", "10.0.0.5"}},
		{"", []string{"fd00::5", "10.0.0.5"}, []string{"fd00::5", "10.0.0.5"}},
	} {
		got := slices.Clone(c.ips)
		sortPrimary(got, c.primary)
		if !slices.Equal(got, c.want) {
			t.Errorf("%v with %q first: got %v, want %v", c.ips, c.primary, got, c.want)
		}
	}
}
