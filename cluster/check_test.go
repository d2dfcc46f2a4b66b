package cluster

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/skiff-k8s/skiff/family"
)

func TestCheck(t *testing.T) {
	tests := []struct {
		name               string
		nodes              int
		services, pods, at string
		listen             string
		want               string // part of the error, empty for none
	}{
		{name: "defaults"},
		{name: "pods of IPv6", pods: "fd00::/56"},
		{name: "both families", pods: "10.244.0.0/16,fd00::/56", listen: "[fd01::1]:6443", want: "the API listens on fd01::1, and the primary family of the cluster is IPv4"},
		{name: "another family for Services", pods: "10.244.0.0/16", services: "fd00::/112", want: "the Service ranges fd00::/112 are of the families [IPv6], and those of pods, 10.244.0.0/16, of [IPv4]"},
		{name: "another order for nodes", pods: "fd00::/56,10.244.0.0/16", at: "172.30.0.0/24,fd02::/64", want: "the node ranges 172.30.0.0/24,fd02::/64 are of the families [IPv4 IPv6]"},
		{name: "pods of two nodes in one node's range of IPv6", nodes: 2, pods: "fd00::/64", want: "it must be at least a /63"},
		{name: "IPv6 pods among Services", pods: "10.244.0.0/16,fd00:10:96::/56", want: "the pod range fd00:10:96::/56 overlaps with the Service range fd00:10:96::/112"},
		{name: "pods among Services", pods: "10.96.0.0/20", want: "the pod range 10.96.0.0/20 overlaps with the Service range 10.96.0.0/16"},
		{name: "nodes among pods", at: "10.244.9.0/24", want: "the node range 10.244.9.0/24 overlaps with the pod range 10.244.0.0/16"},
		{name: "no address for DNS", services: "10.96.0.0/29", want: "the Service range 10.96.0.0/29 is too small"},
		{name: "pods of two nodes in one node's range", nodes: 2, pods: "10.244.0.0/24", want: "it must be at least a /23"},
		{name: "too few addresses for nodes", nodes: 6, at: "172.30.0.0/29", want: "it must be at least a /28"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := Config{Nodes: test.nodes}
			for to, text := range map[*family.Ranges]string{&c.ServiceCIDRs: test.services, &c.PodCIDRs: test.pods, &c.NodeCIDRs: test.at} {
				if text != "" {
					*to = family.MustParse(text)
				}
			}
			if test.listen != "" {
				c.Listen = netip.MustParseAddrPort(test.listen)
			}
			c.fillRanges()
			err := c.checkRanges()
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

// TestStandardRanges: ranges that are not given follow those that are.
func TestStandardRanges(t *testing.T) {
	for _, c := range []struct{ services, pods, nodes, want string }{
		{"", "", "", "10.96.0.0/16 10.244.0.0/16 172.30.0.0/24"},
		{"", "fd44::/56", "", "fd00:10:96::/112 fd44::/56 fd00:172:30::/64"},
		{"10.44.0.0/16,fd44::/112", "", "", "10.44.0.0/16,fd44::/112 10.244.0.0/16,fd00:10:244::/56 172.30.0.0/24,fd00:172:30::/64"},
		{"", "", "fd44::/64,172.31.0.0/24", "fd00:10:96::/112,10.96.0.0/16 fd00:10:244::/56,10.244.0.0/16 fd44::/64,172.31.0.0/24"},
	} {
		var config Config
		for to, text := range map[*family.Ranges]string{&config.ServiceCIDRs: c.services, &config.PodCIDRs: c.pods, &config.NodeCIDRs: c.nodes} {
			if text != "" {
				*to = family.MustParse(text)
			}
		}
		config.fillRanges()
		if got := config.ServiceCIDRs.String() + " " + config.PodCIDRs.String() + " " + config.NodeCIDRs.String(); got != c.want {
			t.Errorf("%+v: got %s, want %s", c, got, c.want)
		}
		if err := config.checkRanges(); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
	}
	if err := (Config{Nodes: -1}).check(); err == nil || !strings.Contains(err.Error(), "cannot have -1 nodes") {
		t.Errorf("fewer than no nodes: got %v", err)
	}
}
