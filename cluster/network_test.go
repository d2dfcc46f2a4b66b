package cluster

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/skiff-k8s/skiff/family"
)

func TestRoutes(t *testing.T) {
	c := Config{
		DataDir: t.TempDir(), NodeCIDRs: family.MustParse("172.30.0.0/24,fd00:172:30::/64"),
		PodCIDRs: family.MustParse("10.244.0.0/16,fd00:10:244::/56"), ServiceCIDRs: family.MustParse("10.96.0.0/16,fd00:10:96::/112"),
	}
	for _, test := range []struct {
		name     string
		isolated bool
		want     []string
	}{
		{"the world is reached by this machine", false, []string{"0.0.0.0/0 via 172.30.0.1", "::/0 via fd00:172:30::1"}},
		{"isolated nodes reach the cluster, all else is refused", true,
			[]string{"unreachable 0.0.0.0/0", "10.96.0.0/16 via 172.30.0.1", "unreachable ::/0", "fd00:10:96::/112 via fd00:172:30::1"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			c.Isolated = test.isolated
			var got []string
			for _, r := range c.network().routes(1) {
				if r.Type == unix.RTN_UNREACHABLE {
					got = append(got, fmt.Sprintf("unreachable %s", r.Dst))
					continue
				}
				got = append(got, fmt.Sprintf("%s via %s", r.Dst, r.Gw))
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
		})
	}
}
