package ipvs

import (
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-k8s/skiff/proxy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
	"github.com/skiff-k8s/skiff/proxy/nftables"
	"github.com/skiff-k8s/skiff/proxy/proxytest"
)

// needsKernel skips a test where the kernel has no IPVS. In the guest it has.
func needsKernel(t testing.TB) {
	t.Helper()
	if err := Available(DefaultScheduler); err != nil {
		if os.Getenv("SKIFF_GUEST") != "" {
			t.Fatal(err)
		}
		t.Skipf("make test-guest runs this: %v", err)
	}
}

func newBackend() proxy.Backend { return New(DefaultScheduler, nftables.New()) }

func TestBehaviours(t *testing.T) {
	needsKernel(t)
	proxytest.Run(t, newBackend)
}

// TestSchedulers has the kernel know every scheduler that there is said to be.
func TestSchedulers(t *testing.T) {
	needsKernel(t)
	for _, scheduler := range append([]string{"nonesuch"}, schedulers...) {
		err := Available(scheduler)
		lacks := scheduler == "nonesuch" || scheduler == "twos" && !hasTwos(t)
		if (err != nil) != lacks || lacks && !strings.Contains(err.Error(), "ip_vs_"+scheduler) {
			t.Errorf("%s: got the error %v", scheduler, err)
		}
	}
}

// hasTwos reports whether the kernel has a scheduler that Debian leaves out. Debian's kernel does not tell what it was
// built with, that of User Mode Linux does.
func hasTwos(t *testing.T) bool {
	file, err := os.Open("/proc/config.gz")
	if errors.Is(err, fs.ErrNotExist) {
		return false
	}
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	config, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^CONFIG_IP_VS_TWOS=[ym]$`).Match(config)
}

// TestWithout says what a kernel lacks that has no IPVS.
func TestWithout(t *testing.T) {
	err := Available(DefaultScheduler)
	if err == nil {
		t.Skip("this kernel has all of it")
	}
	if !strings.Contains(err.Error(), "module") {
		t.Errorf("got %q, which names no module", err)
	}
}

// do calls f on a thread inside a namespace.
func do(t *testing.T, n *nettest.Namespace, f func() error) {
	t.Helper()
	var err error
	n.Do(t, func() { err = f() })
	if err != nil {
		t.Fatal(err)
	}
}

// seen is all that a backend may change in a namespace.
func seen(t *testing.T, n *nettest.Namespace) string {
	t.Helper()
	text := n.Run(t, "sh", "-c", `ip -o link | cut -d: -f2; ip route show table local; ip -6 route show table local; ipvsadm -Sn; nft list tables
		grep . /proc/sys/net/ipv4/vs/conntrack /proc/sys/net/ipv4/vs/expire_nodest_conn /proc/sys/net/ipv4/vs/expire_quiescent_template`)
	lines := slices.Collect(strings.Lines(text))
	slices.Sort(lines)
	return strings.Join(lines, "")
}

// TestTakesOver has a second backend find what a first left, change nothing of it,
// and take it away; what others have stays.
func TestTakesOver(t *testing.T) {
	needsKernel(t)
	n := nettest.New(t)
	n.Run(t, "ipvsadm", "-A", "-t", "192.0.2.77:80", "-s", "wlc") // another program's
	n.Run(t, "ip", "link", "add", "other", "type", "dummy")
	n.Set(t, "ipv4/vs/expire_nodest_conn", "1")
	before := seen(t, n)
	table := &proxy.Table{Rules: []*proxy.Rule{rule("ns/web", 80, front(proxy.LoadBalancer, "203.0.113.6:80", true))}}
	do(t, n, func() error { return newBackend().Apply(t.Context(), table) })
	after := seen(t, n)
	for _, line := range []string{
		"-A -t 10.96.0.7:80 -s rr", "-a -t 10.96.0.7:80 -r 10.244.0.5:8080 -m -w 1", "-a -t 10.96.0.7:80 -r 10.244.1.5:8080 -m -w 1",
		"-A -t 10.96.0.7:65535 -s rr", "-a -t 10.96.0.7:65535 -r 10.244.0.5:8080 -m -w 1",
		"local 10.96.0.7 dev skiff-ipvs proto 83 scope host", "conntrack:1",
	} {
		if !strings.Contains(after, line) {
			t.Errorf("no %q in\n%s", line, after)
		}
	}
	second := newBackend()
	do(t, n, func() error { return second.Apply(t.Context(), table) })
	if now := seen(t, n); now != after {
		t.Errorf("taken over:\n%s\nbefore:\n%s", now, after)
	}
	do(t, n, func() error { return newBackend().Apply(t.Context(), &proxy.Table{}) })
	if now := seen(t, n); strings.Contains(now, "10.96.0.7") {
		t.Errorf("without Services:\n%s", now)
	}
	do(t, n, func() error { return newBackend().Remove(t.Context()) })
	if now := seen(t, n); now != before {
		t.Errorf("after Remove:\n%s\nbefore:\n%s", now, before)
	}
	do(t, n, func() error { return newBackend().Remove(t.Context()) }) // of nothing
}

// TestNeighbours has other network namespaces of the same kernel have virtual servers
// too, which come and go while ours are listed. None of ours is overlooked, by whoever
// made them or by who takes them over.
func TestNeighbours(t *testing.T) {
	needsKernel(t)
	const services = 600
	ours, theirs := nettest.New(t), nettest.New(t)
	table := many(services)
	b, neighbour := newBackend(), newBackend()
	do(t, theirs, func() error { return neighbour.Apply(t.Context(), table) })
	do(t, ours, func() error { return b.Apply(t.Context(), table) })
	do(t, ours, func() error {
		list, err := listServers(nil)
		if len(list) != services {
			t.Errorf("listed %d virtual servers of %d", len(list), services)
		}
		return err
	})
	do(t, ours, func() error { return newBackend().Apply(t.Context(), table) })
	stop, stopped := make(chan struct{}), make(chan struct{})
	go theirs.Do(t, func() {
		defer close(stopped)
		for half := *table; ; {
			for _, n := range []int{services / 2, services} {
				select {
				case <-stop:
					return
				default:
				}
				half.Rules = table.Rules[:n]
				if err := neighbour.Apply(t.Context(), &half); err != nil {
					t.Error(err)
					return
				}
			}
		}
	})
	for range 20 {
		do(t, ours, func() error {
			is, err := b.Intact(t.Context())
			if !is {
				t.Error("virtual servers seem to be gone, which are there")
			}
			return err
		})
	}
	close(stop)
	<-stopped
}

// TestOtherPrograms has other programs damage what is there: it is noticed, and the
// next Apply makes it as it was.
func TestOtherPrograms(t *testing.T) {
	needsKernel(t)
	table := &proxy.Table{Rules: []*proxy.Rule{rule("ns/web", 80)}}
	for name, damage := range map[string]string{
		"all virtual servers": "ipvsadm -C",
		"an endpoint":         "ipvsadm -d -t 10.96.0.7:80 -r 10.244.0.5:8080",
		"a weight":            "ipvsadm -e -t 10.96.0.7:80 -r 10.244.0.5:8080 -m -w 7",
		"a scheduler":         "ipvsadm -E -t 10.96.0.7:80 -s wlc",
		"persistence":         "ipvsadm -E -t 10.96.0.7:80 -s rr -p 60",
		"the interface":       "ip link delete skiff-ipvs",
		"the interface, down": "ip link set skiff-ipvs down",
		"a route":             "ip route delete local 10.96.0.7 dev skiff-ipvs table local",
		"the rules":           "nft flush ruleset",
		"a setting":           "echo 0 > /proc/sys/net/ipv4/vs/conntrack",
	} {
		t.Run(name, func(t *testing.T) {
			n := nettest.New(t)
			b := newBackend()
			intact := func() (is bool) {
				do(t, n, func() (err error) { is, err = b.Intact(t.Context()); return err })
				return is
			}
			do(t, n, func() error { return b.Apply(t.Context(), table) })
			before := seen(t, n)
			if !intact() {
				t.Errorf("not intact as applied:\n%s", before)
			}
			n.Run(t, "sh", "-c", damage)
			if intact() {
				t.Error("the damage was not noticed")
			}
			do(t, n, func() error { return b.Apply(t.Context(), table) })
			if after := seen(t, n); after != before || !intact() {
				t.Errorf("got\n%s\nwant\n%s", after, before)
			}
		})
	}
}

// TestDrains has a connection go on with an endpoint that gets no new ones.
func TestDrains(t *testing.T) {
	needsKernel(t)
	node, near, far := nettest.New(t), nettest.New(t), nettest.New(t)
	node.Set(t, "ipv4/ip_forward", "1")
	for _, pod := range []struct {
		n             *nettest.Namespace
		name, gateway string
		addr          string
	}{{near, "near", "10.244.0.1", "10.244.0.5"}, {far, "far", "10.244.1.1", "10.244.1.5"}} {
		nettest.Join(t, node, pod.name, pod.gateway+"/24", pod.n, "eth0", pod.addr+"/24")
		pod.n.Run(t, "ip", "route", "add", "default", "via", pod.gateway)
		echo(t, pod.n, pod.addr+":8080", pod.name)
	}
	b := newBackend()
	become := func(r *proxy.Rule) {
		t.Helper()
		do(t, node, func() error { return b.Apply(t.Context(), &proxy.Table{Rules: []*proxy.Rule{r}}) })
	}
	both := rule("ns/web", 80)
	become(both)
	var open net.Conn
	dial := func() (conn net.Conn, name string) {
		t.Helper()
		do(t, node, func() (err error) { conn, err = net.DialTimeout("tcp4", "10.96.0.7:80", 20*time.Second); return err })
		t.Cleanup(func() { conn.Close() })
		return conn, say(t, conn)
	}
	open, name := dial()
	leaving := *both
	if name == "near" {
		leaving.Cluster = both.Cluster[1:]
	} else {
		leaving.Cluster = both.Cluster[:1]
	}
	become(&leaving)
	for range 8 {
		if _, got := dial(); got == name {
			t.Fatalf("%s gets new connections", name)
		}
	}
	become(&leaving) // looks for what has ended
	if got := say(t, open); got != name {
		t.Errorf("the connection is with %s, it was with %s", got, name)
	}
	if list := node.Run(t, "ipvsadm", "-Ln"); !regexp.MustCompile(`Masq +0 +1 +0`).MatchString(list) {
		t.Errorf("no endpoint of weight 0 with one connection:\n%s", list)
	}
}

// echo answers every byte with a name.
func echo(t *testing.T, n *nettest.Namespace, addr, name string) {
	t.Helper()
	var listener net.Listener
	do(t, n, func() (err error) { listener, err = net.Listen("tcp4", addr); return err })
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for buffer := make([]byte, 1); ; {
					if _, err := conn.Read(buffer); err != nil {
						return
					}
					_, _ = conn.Write([]byte(name))
				}
			}()
		}
	}()
}

func say(t *testing.T, conn net.Conn) string {
	t.Helper()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	buffer := make([]byte, 10)
	_, err := conn.Write([]byte("?"))
	if err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(buffer)
	if err != nil {
		t.Fatal(err)
	}
	return string(buffer[:n])
}

// many is a table of Services with five endpoints each.
func many(services int) *proxy.Table {
	t := &proxy.Table{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}}
	for i := range services {
		r := &proxy.Rule{Name: fmt.Sprintf("ns/web-%06d", i), Protocol: corev1.ProtocolTCP, Family: corev1.IPv4Protocol}
		r.Fronts = []proxy.Front{{Kind: proxy.ClusterIP, Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)}), 80)}}
		for e := range 5 {
			n := i*5 + e
			r.Cluster = append(r.Cluster, netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, byte(n >> 8), byte(n)}), 8080))
		}
		r.Serving = r.Cluster
		t.Rules = append(t.Rules, r)
	}
	return t
}

// BenchmarkSync is the first sync of a node, BenchmarkChange that of one Service
// that loses an endpoint or gets it back; BenchmarkIntact looks at all of it.
func BenchmarkSync(b *testing.B) { bench(b, sync) }

func BenchmarkChange(b *testing.B) {
	bench(b, func(b *testing.B, n int) {
		table := many(n)
		backend := New(DefaultScheduler, nftables.New())
		_ = backend.Remove(b.Context())
		if err := backend.Apply(b.Context(), table); err != nil {
			b.Fatal(err)
		}
		defer backend.Remove(b.Context())
		for i := 0; b.Loop(); i++ {
			changed := *table.Rules[n/2]
			changed.Cluster = changed.Serving[:5-i%2]
			next := *table
			next.Rules = slices.Clone(table.Rules)
			next.Rules[n/2] = &changed
			if err := backend.Apply(b.Context(), &next); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkIntact(b *testing.B) {
	bench(b, func(b *testing.B, n int) {
		backend := New(DefaultScheduler, nftables.New())
		if err := backend.Apply(b.Context(), many(n)); err != nil {
			b.Fatal(err)
		}
		defer backend.Remove(b.Context())
		for b.Loop() {
			if is, err := backend.Intact(b.Context()); err != nil || !is {
				b.Fatal(is, err)
			}
		}
	})
}

func sync(b *testing.B, n int) {
	table := many(n)
	for b.Loop() {
		b.StopTimer()
		backend := New(DefaultScheduler, nftables.New())
		if err := backend.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
		if err := backend.Apply(b.Context(), table); err != nil {
			b.Fatal(err)
		}
	}
	if err := newBackend().Remove(b.Context()); err != nil {
		b.Fatal(err)
	}
}

func bench(b *testing.B, f func(b *testing.B, services int)) {
	needsKernel(b)
	for _, n := range []int{100, 1000, 10000} {
		b.Run(fmt.Sprintf("services=%d", n), func(b *testing.B) { inside(b, func() { f(b, n) }) })
	}
}

// inside calls f in a network namespace that goes with its thread.
func inside(b *testing.B, f func()) {
	runtime.LockOSThread() // until the end of the benchmark's goroutine, whose thread ends with it
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		b.Fatal(err)
	}
	f()
}
