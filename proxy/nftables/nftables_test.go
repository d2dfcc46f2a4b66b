package nftables_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
	"github.com/skiff-k8s/skiff/proxy/nftables"
	"github.com/skiff-k8s/skiff/proxy/nftables/kernel"
	"github.com/skiff-k8s/skiff/proxy/proxytest"
)

func TestBehaviours(t *testing.T) {
	if err := nftables.Available(); err != nil {
		t.Fatal(err)
	}
	proxytest.Run(t, func() proxy.Backend { return nftables.New() })
}

func addr(text string) netip.AddrPort { return netip.MustParseAddrPort(text) }

// rule is a Service with a number, which has some endpoints.
func rule(i, endpoints int) *proxy.Rule {
	r := &proxy.Rule{
		Name: fmt.Sprintf("ns/s%05d", i), Protocol: corev1.ProtocolTCP, Family: corev1.IPv4Protocol,
		Fronts: []proxy.Front{
			{Kind: proxy.ClusterIP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)},
			{Kind: proxy.NodePort, Addr: netip.AddrPortFrom(netip.Addr{}, uint16(30000+i%2000))},
		},
	}
	if i >= 2000 {
		r.Fronts = r.Fronts[:1]
	}
	for j := range endpoints {
		r.Cluster = append(r.Cluster, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(i), byte(j)}), 8080))
	}
	return r
}

func table(rules ...*proxy.Rule) *proxy.Table {
	return &proxy.Table{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Rules: rules}
}

// TestOtherPrograms has other programs damage the table: it is noticed, and the
// next Apply makes it as it was.
func TestOtherPrograms(t *testing.T) {
	for name, damage := range map[string]string{
		"everything":            `nft flush ruleset`,
		"the table":             `nft delete table ip skiff-proxy`,
		"the table's rules":     `nft flush table ip skiff-proxy`,
		"the rules of a chain":  `nft flush chain ip skiff-proxy internal-3`,
		"a rule more":           `nft insert rule ip skiff-proxy services accept`,
		"a Service":             `nft delete element ip skiff-proxy fronts '{ 10.96.0.1 . tcp . 80 }'`,
		"all endpoints":         `nft flush map ip skiff-proxy endpoints`,
		"another family's part": `nft delete table ip6 skiff-proxy`,
	} {
		t.Run(name, func(t *testing.T) {
			n, b := nettest.New(t), nftables.New()
			apply := func() (err error) {
				n.Do(t, func() { err = b.Apply(t.Context(), table(rule(1, 3), rule(2, 4))) })
				return err
			}
			intact := func() (is bool) {
				var err error
				n.Do(t, func() { is, err = b.Intact(t.Context()) })
				if err != nil {
					t.Error(err)
				}
				return is
			}
			if err := apply(); err != nil {
				t.Fatal(err)
			}
			before := dump(t, n)
			n.Run(t, "sh", "-c", damage)
			if dump(t, n) == before {
				t.Fatal("there is no damage")
			}
			if intact() {
				t.Error("the damage was not noticed")
			}
			if err := apply(); err != nil {
				t.Fatal(err)
			}
			if !intact() {
				t.Error("not intact after it was made anew")
			}
			if after := dump(t, n); after != before {
				t.Errorf("got\n%s\nwant\n%s", after, before)
			}
		})
	}
}

// dump is what the tables of both families have: how many rules in each chain, and
// all elements.
func dump(t *testing.T, n *nettest.Namespace) string {
	t.Helper()
	var lines []string
	var failed error
	n.Do(t, func() {
		for _, family := range []uint8{unix.NFPROTO_IPV4, unix.NFPROTO_IPV6} {
			table := kernel.Table{Family: family, Name: "skiff-proxy"}
			rules, err := table.Rules()
			failed = errors.Join(failed, err)
			for chain, count := range rules {
				lines = append(lines, fmt.Sprintf("%d chain %s %d\n", family, numberless(chain), count))
			}
			for _, set := range []string{"fronts", "node-ports", "endpoints", "node-port-endpoints", "hairpin"} {
				var elements []string
				// A set that is not there has no elements.
				_ = table.Elements(set, func() { elements = nil }, func(e kernel.Element) {
					elements = append(elements, fmt.Sprintf("%d %s %x %x %s\n", family, set, e.Key, e.Data, numberless(e.Goto)))
				})
				lines = append(lines, elements...)
			}
		}
	})
	if failed != nil {
		t.Fatal(failed)
	}
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// numberless is the name of a chain without the number that tells it from others alike.
func numberless(chain string) string {
	return regexp.MustCompile(`^(firewall|sticky)-\d+`).ReplaceAllString(chain, "$1")
}

// TestChanges changes a table step by step: what the kernel has then is what it has
// after the last step alone, and no chain that nobody uses is left.
func TestChanges(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	n, b := nettest.New(t), nftables.New()
	apply := func(n *nettest.Namespace, b *nftables.Backend, table *proxy.Table) {
		t.Helper()
		var err error
		n.Do(t, func() { err = b.Apply(t.Context(), table) })
		if err != nil {
			t.Fatal(err)
		}
	}
	for step := range 40 {
		var rules []*proxy.Rule
		for i := range 12 {
			if random.IntN(3) == 0 {
				continue
			}
			r := rule(i, random.IntN(4))
			r.Fronts[1].Local = random.IntN(2) == 0
			if len(r.Cluster) > 0 {
				r.Local = r.Cluster[:random.IntN(len(r.Cluster))]
				r.Hairpin = []netip.Addr{r.Cluster[0].Addr()}
			}
			r.Sticky = time.Duration(random.IntN(2)) * time.Hour
			if random.IntN(3) == 0 {
				r.Fronts = append(r.Fronts, proxy.Front{
					Kind: proxy.LoadBalancer, Addr: addr(fmt.Sprintf("203.0.113.%d:80", i)),
					Allow: []netip.Prefix{netip.MustParsePrefix(fmt.Sprintf("192.0.2.%d/32", random.IntN(2)))},
				})
			}
			rules = append(rules, r)
		}
		apply(n, b, table(rules...))
		var intact bool
		n.Do(t, func() { intact, _ = b.Intact(t.Context()) })
		if !intact {
			t.Fatalf("step %d: not intact as applied", step)
		}
		if step%10 != 9 {
			continue
		}
		fresh := nettest.New(t)
		apply(fresh, nftables.New(), table(rules...))
		if got, want := dump(t, n), dump(t, fresh); got != want {
			t.Fatalf("step %d: got\n%s\nwant, as in a new namespace,\n%s", step, got, want)
		}
	}
}

// BenchmarkSync writes 10,000 Services with 5 endpoints each into an empty
// namespace.
func BenchmarkSync(b *testing.B) {
	benchmark(b, func(n *nettest.Namespace, full *proxy.Table) {
		for b.Loop() {
			n.Do(b, func() {
				if err := nftables.New().Apply(b.Context(), full); err != nil {
					b.Error(err)
				}
			})
		}
	})
}

// BenchmarkChange changes the endpoints of one of them, and back.
func BenchmarkChange(b *testing.B) {
	benchmark(b, func(n *nettest.Namespace, full *proxy.Table) {
		backend := nftables.New()
		n.Do(b, func() {
			if err := backend.Apply(b.Context(), full); err != nil {
				b.Error(err)
			}
		})
		changed := *full
		changed.Rules = slices.Clone(full.Rules)
		changed.Rules[5000] = rule(5000, 4)
		tables := []*proxy.Table{&changed, full}
		for i := 0; b.Loop(); i++ {
			n.Do(b, func() {
				if err := backend.Apply(b.Context(), tables[i%2]); err != nil {
					b.Error(err)
				}
			})
		}
	})
}

func benchmark(b *testing.B, run func(n *nettest.Namespace, full *proxy.Table)) {
	var rules []*proxy.Rule
	for i := range 10000 {
		rules = append(rules, rule(i, 5))
	}
	run(nettest.New(b), table(rules...))
}
