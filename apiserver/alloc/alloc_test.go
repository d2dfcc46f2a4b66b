package alloc

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-k8s/skiff/apiserver/backend"
	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/family"
)

// objects keeps IPAddresses, ServiceCIDRs and Services.
type objects struct {
	resource.Cluster
	mu  sync.Mutex
	all map[string]resource.Object
}

func (o *objects) Resource(group, plural string) *resource.Resource {
	return &resource.Resource{Group: group, Plural: plural}
}

func (o *objects) Get(_ context.Context, r *resource.Resource, namespace, name string) (resource.Object, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	obj, ok := o.all[r.Plural+"/"+namespace+"/"+name]
	if !ok {
		return nil, apierrors.NewNotFound(r.GR(), name)
	}
	return obj, nil
}

func (o *objects) List(_ context.Context, r *resource.Resource, _ string) ([]resource.Object, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var list []resource.Object
	for _, obj := range o.all {
		plural := "services"
		switch obj.(type) {
		case *networkingv1.IPAddress:
			plural = "ipaddresses"
		case *networkingv1.ServiceCIDR:
			plural = "servicecidrs"
		}
		if plural == r.Plural {
			list = append(list, obj)
		}
	}
	return list, nil
}

func (o *objects) Create(_ context.Context, r *resource.Resource, obj resource.Object) (resource.Object, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := r.Plural + "/" + obj.GetNamespace() + "/" + obj.GetName()
	if _, ok := o.all[key]; ok {
		return nil, apierrors.NewAlreadyExists(r.GR(), obj.GetName())
	}
	o.all[key] = obj
	return obj, nil
}

func (o *objects) Delete(_ context.Context, r *resource.Resource, namespace, name string, _ *metav1.DeleteOptions) (resource.Object, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.all, r.Plural+"/"+namespace+"/"+name)
	return nil, nil
}

func start(t *testing.T, b backend.Backend, o *objects, cidr string, ports PortRange) *Services {
	t.Helper()
	s, err := New(Config{Backend: b, CIDRs: family.MustParse(cidr), Ports: ports})
	if err != nil {
		t.Fatal(err)
	}
	s.Use(o)
	return s
}

// TestConcurrent empties ranges through two servers at once.
func TestConcurrent(t *testing.T) {
	b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
	defer b.Close()
	servers := []*Services{start(t, b, o, "10.9.0.0/24", PortRange{31000, 31099}), start(t, b, o, "10.9.0.0/24", PortRange{31000, 31099})}
	var (
		mu    sync.Mutex
		given = make(map[string]int)
		full  int
		work  sync.WaitGroup
	)
	for i := range 300 {
		work.Go(func() {
			w := servers[i%2].Begin(Owner{"ns", fmt.Sprint("s", i)}, false)
			a, err := w.NextAddress(t.Context(), corev1.IPv4Protocol)
			p, portErr := w.NextPort(t.Context())
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				given[a.String()]++
			}
			if portErr == nil {
				given[fmt.Sprint(p)]++
			}
			if errors.Is(err, ErrFull) {
				full++
			}
			w.End(true)
		})
	}
	work.Wait()
	for value, n := range given {
		if n != 1 {
			t.Errorf("%s was given out %d times", value, n)
		}
	}
	if len(given) != 254+100 || full != 300-254 {
		t.Errorf("got %d values and %d times full, want %d and %d", len(given), full, 354, 46)
	}
}

func TestWrite(t *testing.T) {
	b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
	defer b.Close()
	s := start(t, b, o, "10.9.0.0/24", PortRange{31000, 31099})
	ctx, me, you := t.Context(), Owner{"ns", "me"}, Owner{"ns", "you"}
	address := netip.MustParseAddr("10.9.0.7")

	failed := s.Begin(me, false)
	if err := errors.Join(failed.Address(ctx, address), failed.Port(ctx, 31007)); err != nil {
		t.Fatal(err)
	}
	taken := s.Begin(you, false)
	if err := taken.Address(ctx, address); !errors.Is(err, ErrAddressTaken) {
		t.Errorf("address of another: got %v, want %v", err, ErrAddressTaken)
	}
	if err := taken.Port(ctx, 31007); !errors.Is(err, ErrPortTaken) {
		t.Errorf("port of another: got %v, want %v", err, ErrPortTaken)
	}
	failed.End(false)

	w := s.Begin(you, false)
	if err := errors.Join(w.Address(ctx, address), w.Port(ctx, 31007)); err != nil {
		t.Errorf("values of a write that failed: %v", err)
	}
	w.End(true)
	again := start(t, b, o, "10.9.0.0/24", PortRange{31000, 31099}).Begin(me, false)
	if err := again.Address(ctx, address); !errors.Is(err, ErrAddressTaken) {
		t.Errorf("after a restart: got %v, want %v", err, ErrAddressTaken)
	}
	// Only the owner can give a value back.
	thief := s.Begin(me, false)
	thief.FreeAddress(address)
	thief.End(true)
	if err := again.Address(ctx, address); !errors.Is(err, ErrAddressTaken) {
		t.Errorf("freed by another: got %v, want %v", err, ErrAddressTaken)
	}
	w = s.Begin(you, false)
	w.FreeAddress(address)
	w.FreePort(31007)
	w.End(true)
	if err := errors.Join(again.Address(ctx, address), again.Port(ctx, 31007)); err != nil {
		t.Errorf("freed by its owner: %v", err)
	}

	for _, wrong := range []string{"10.9.0.0", "10.9.0.255", "10.10.0.1", "fd00::1"} {
		if err := w.Address(ctx, netip.MustParseAddr(wrong)); !errors.Is(err, ErrForeign) {
			t.Errorf("%s: got %v, want %v", wrong, err, ErrForeign)
		}
	}
	if err, want := w.Port(ctx, 80), "provided port is not in the valid range. The range of valid ports is 31000-31099"; err == nil || err.Error() != want {
		t.Errorf("port 80: got %v, want %s", err, want)
	}
}

// TestFamilies: each family has its range, and nothing of the other.
func TestFamilies(t *testing.T) {
	const v4, v6 = corev1.IPv4Protocol, corev1.IPv6Protocol
	for _, c := range []struct {
		cidrs, first string
		// next is the range of what each family is given, "" if it is given nothing.
		next map[corev1.IPFamily]string
		// taken and refused are addresses that are asked for.
		taken, refused []string
	}{
		{"10.9.0.0/24", "10.9.0.1", map[corev1.IPFamily]string{v4: "10.9.0.0/24", v6: ""},
			[]string{"10.9.0.1", "10.9.0.254"}, []string{"10.9.0.0", "10.9.0.255", "10.9.1.0", "fd09::1", "::ffff:10.9.0.2"}},
		{"10.9.0.0/24,fd09::/120", "10.9.0.1", map[corev1.IPFamily]string{v4: "10.9.0.0/24", v6: "fd09::/120"},
			[]string{"10.9.0.1", "fd09::1", "fd09::ff"}, []string{"fd09::", "fd09::100", "10.9.0.255"}},
		{"fd09::/64,10.9.0.0/24", "fd09::1", map[corev1.IPFamily]string{v4: "10.9.0.0/24", v6: "fd09::/64"},
			[]string{"fd09::ffff:ffff:ffff:ffff", "fd09::8000:0:0:1"}, []string{"fd09::", "fd09:0:0:1::1"}},
		{"fd09::/126", "fd09::1", map[corev1.IPFamily]string{v4: "", v6: "fd09::/126"},
			[]string{"fd09::3"}, []string{"fd09::4", "10.9.0.1"}},
	} {
		b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
		s := start(t, b, o, c.cidrs, PortRange{})
		if got := s.First().String(); got != c.first {
			t.Errorf("%s: the first address is %s, want %s", c.cidrs, got, c.first)
		}
		w := s.Begin(Owner{"ns", "s"}, false)
		for _, text := range c.taken {
			if err := w.Address(t.Context(), netip.MustParseAddr(text)); err != nil {
				t.Errorf("%s: %s: %v", c.cidrs, text, err)
			}
			if err := w.Address(t.Context(), netip.MustParseAddr(text)); !errors.Is(err, ErrAddressTaken) {
				t.Errorf("%s: %s once more: got %v, want %v", c.cidrs, text, err, ErrAddressTaken)
			}
		}
		for _, text := range c.refused {
			if err := w.Address(t.Context(), netip.MustParseAddr(text)); !errors.Is(err, ErrForeign) {
				t.Errorf("%s: %s: got %v, want %v", c.cidrs, text, err, ErrForeign)
			}
		}
		for f, want := range c.next {
			a, err := w.NextAddress(t.Context(), f)
			if want == "" {
				if !errors.Is(err, ErrFull) {
					t.Errorf("%s: an address of %s: got %v %v, want %v", c.cidrs, f, a, err, ErrFull)
				}
				continue
			}
			if r := netip.MustParsePrefix(want); err != nil || !r.Contains(a) {
				t.Errorf("%s: an address of %s: got %v %v, want one of %s", c.cidrs, f, a, err, r)
				continue
			}
			if ip := o.all["ipaddresses//"+a.String()].(*networkingv1.IPAddress); ip.Labels[networkingv1.LabelIPAddressFamily] != string(f) {
				t.Errorf("%s: labels of %s: %v", c.cidrs, a, ip.Labels)
			}
			if a, err := s.Begin(Owner{"ns", "dry"}, true).NextAddress(t.Context(), f); err != nil || a != netip.MustParsePrefix(want).Addr() {
				t.Errorf("%s: a dry run in %s: got %v %v", c.cidrs, f, a, err)
			}
		}
		w.End(false)
		if claimed, err := s.addresses.All(t.Context()); err != nil || len(claimed) != 0 {
			t.Errorf("%s: a write that failed left %v, %v", c.cidrs, claimed, err)
		}
		_ = b.Close()
	}
	for _, wrong := range []string{"10.0.0.0/8", "fd00::/48", "10.9.0.0/31", "fd00::/127"} {
		if _, err := New(Config{Backend: memory.New(), CIDRs: family.MustParse(wrong)}); err == nil {
			t.Errorf("%s is accepted", wrong)
		}
	}
}

// TestSmallIPv6 empties a range: its last address is one that can be had, unlike
// that of IPv4.
func TestSmallIPv6(t *testing.T) {
	b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
	defer b.Close()
	s := start(t, b, o, "fd09::/124", PortRange{})
	for i := range 16 {
		_, err := s.Begin(Owner{"ns", fmt.Sprint(i)}, false).NextAddress(t.Context(), corev1.IPv6Protocol)
		if i < 15 && err != nil || i == 15 && !errors.Is(err, ErrFull) {
			t.Errorf("address %d of 15: %v", i+1, err)
		}
	}
}

func TestDryRun(t *testing.T) {
	b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
	defer b.Close()
	s := start(t, b, o, "10.9.0.0/24", PortRange{31000, 31003})
	w := s.Begin(Owner{"ns", "s"}, true)
	seen := make(map[int32]bool)
	for range 4 {
		port, err := w.NextPort(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		seen[port] = true
	}
	if len(seen) != 4 {
		t.Errorf("four ports of one write: got %v", seen)
	}
	w.End(true)
	if claims, err := s.keys.All(t.Context()); err != nil || len(claims) != 0 {
		t.Errorf("claims after a dry run: %v, %v", claims, err)
	}
}

// TestBand: values nobody chose come from the upper part while there are any.
func TestBand(t *testing.T) {
	for _, c := range []struct {
		name                        string
		size, fraction, least, most uint64
		want                        uint64
	}{
		{"/16 of addresses", 65536, 16, 16, 256, 256},
		{"/24 of addresses", 256, 16, 16, 256, 16},
		{"too small", 8, 16, 16, 256, 0},
		{"all would be low", 16, 16, 16, 256, 0},
		{"node ports", 2768, 32, 16, 128, 86},
	} {
		if got := band(c.size, c.fraction, c.least, c.most); got != c.want {
			t.Errorf("%s: got %d, want %d", c.name, got, c.want)
		}
	}
	b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
	defer b.Close()
	s := start(t, b, o, "10.9.0.0/24", PortRange{31000, 31099})
	for i := range 254 {
		a, err := s.Begin(Owner{"ns", fmt.Sprint(i)}, false).NextAddress(t.Context(), corev1.IPv4Protocol)
		if err != nil {
			t.Fatal(err)
		}
		if low := a.As4()[3] < 16; low != (i >= 239) {
			t.Fatalf("address %d of 254 is %s", i+1, a)
		}
	}
}

func TestRepair(t *testing.T) {
	b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
	defer b.Close()
	s := start(t, b, o, "10.9.0.0/24,fd09::/112", PortRange{31000, 31099})
	ctx := t.Context()
	gone := s.Begin(Owner{"ns", "gone"}, false)
	if err := errors.Join(gone.Address(ctx, netip.MustParseAddr("10.9.0.9")), gone.Address(ctx, netip.MustParseAddr("fd09::9")), gone.Port(ctx, 31009)); err != nil {
		t.Fatal(err)
	}
	_, _ = o.Create(ctx, o.Resource("", "services"), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "old"},
		Spec:       corev1.ServiceSpec{ClusterIPs: []string{"10.9.0.8", "fd09::8"}, Ports: []corev1.ServicePort{{NodePort: 31008}}},
	})
	_, _ = o.Create(ctx, o.Resource("networking.k8s.io", "ipaddresses"), &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: "10.9.0.10"},
		Spec:       networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Group: "example.com", Resource: "things", Name: "x"}},
	})
	check := func(when, addresses string, ports ...int) {
		t.Helper()
		claimed, err := s.addresses.All(ctx)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for a := range claimed {
			got = append(got, a.String())
		}
		slices.Sort(got)
		if strings.Join(got, " ") != addresses {
			t.Errorf("%s: %v are claimed, want %s", when, got, addresses)
		}
		bits, err := s.keys.All(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if taken := slices.Sorted(maps.Keys(bits)); !slices.Equal(taken, ports) {
			t.Errorf("%s: ports %v are claimed, want %v", when, taken, ports)
		}
	}
	suspects, err := s.repair(ctx, values{})
	if err != nil {
		t.Fatal(err)
	}
	check("first look", "10.9.0.10 10.9.0.8 10.9.0.9 fd09::8 fd09::9", 8, 9)
	if _, err := s.repair(ctx, suspects); err != nil {
		t.Fatal(err)
	}
	check("second look", "10.9.0.10 10.9.0.8 fd09::8", 8)
}

// serviceCIDR is a range that is ready unless a reason says why not.
func serviceCIDR(name, reason string, deleted bool, cidrs ...string) *networkingv1.ServiceCIDR {
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	if deleted {
		c.DeletionTimestamp = &metav1.Time{}
	}
	ready := metav1.Condition{Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue}
	switch reason {
	case "new":
		return c
	case "":
	default:
		ready.Status, ready.Reason = metav1.ConditionFalse, reason
	}
	c.Status.Conditions = []metav1.Condition{ready}
	return c
}

func TestUsableRanges(t *testing.T) {
	const own, other, third = "10.9.0.0/24", "10.8.0.0/24", "10.10.0.0/24"
	for _, c := range []struct {
		name string
		all  []*networkingv1.ServiceCIDR
		want string
	}{
		{"before there are objects", nil, own},
		{"own, not yet ready", []*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", "new", false, own)}, own},
		{"own, going", []*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", "", true, own)}, ""},
		{"own, not ready", []*networkingv1.ServiceCIDR{serviceCIDR("kubernetes", "Terminating", false, own)}, ""},
		{"own first", []*networkingv1.ServiceCIDR{serviceCIDR("a", "", false, third), serviceCIDR("b", "", false, other)}, own + " " + other + " " + third},
		{"another, not yet ready", []*networkingv1.ServiceCIDR{serviceCIDR("a", "new", false, other)}, own},
		{"another, going", []*networkingv1.ServiceCIDR{serviceCIDR("a", "", true, other)}, own},
		{"one of two objects ready", []*networkingv1.ServiceCIDR{serviceCIDR("a", "", false, other), serviceCIDR("b", "", true, other)}, own + " " + other},
		{"two families", []*networkingv1.ServiceCIDR{serviceCIDR("a", "", false, "fd00::/112", other)}, own + " " + other},
		{"another family", []*networkingv1.ServiceCIDR{serviceCIDR("a", "", false, "fd00::/112")}, own},
		{"IPv6", []*networkingv1.ServiceCIDR{serviceCIDR("a", "", false, "fd01::/112", other), serviceCIDR("kubernetes", "", false, other, "fd00::/112")}, "fd00::/112 fd01::/112"},
	} {
		var got []string
		is := netip.MustParsePrefix(own)
		if c.name == "IPv6" {
			is = netip.MustParsePrefix("fd00::/112")
		}
		for _, p := range usable(is, c.all) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("%s: got %v, want %s", c.name, got, c.want)
		}
	}
}

// TestRanges gives 1,000 Services addresses of three ranges, two of which
// overlap, through two servers.
func TestRanges(t *testing.T) {
	b, o := memory.New(), &objects{all: make(map[string]resource.Object)}
	defer b.Close()
	for _, c := range []*networkingv1.ServiceCIDR{serviceCIDR("b", "", false, "10.20.0.0/22"), serviceCIDR("c", "", false, "10.20.0.0/25"), serviceCIDR("tiny", "", false, "10.30.0.0/32")} {
		if _, err := o.Create(t.Context(), o.Resource("networking.k8s.io", "servicecidrs"), c); err != nil {
			t.Fatal(err)
		}
	}
	servers := []*Services{start(t, b, o, "10.9.0.0/24", PortRange{31000, 31099}), start(t, b, o, "10.9.0.0/24", PortRange{31000, 31099})}
	var mu sync.Mutex
	given := make(map[netip.Addr]int)
	var work sync.WaitGroup
	for i := range 1000 {
		work.Go(func() {
			w := servers[i%2].Begin(Owner{"ns", fmt.Sprint("s", i)}, false)
			a, err := w.NextAddress(t.Context(), corev1.IPv4Protocol)
			if err != nil {
				t.Errorf("service %d: %v", i, err)
			}
			mu.Lock()
			given[a]++
			mu.Unlock()
			w.End(true)
		})
	}
	work.Wait()
	if len(given) != 1000 {
		t.Errorf("1,000 services have %d addresses", len(given))
	}
	own := 0
	for a := range given {
		if netip.MustParsePrefix("10.9.0.0/24").Contains(a) {
			own++
		}
	}
	if own != 254 {
		t.Errorf("%d addresses are of the server's own range, want all 254 before those of others", own)
	}
	// An address is given back when its range is gone too.
	var a netip.Addr
	for a = range given {
		if !netip.MustParsePrefix("10.9.0.0/24").Contains(a) {
			break
		}
	}
	delete(o.all, "servicecidrs//b")
	delete(o.all, "servicecidrs//c")
	ip := o.all["ipaddresses//"+a.String()].(*networkingv1.IPAddress)
	w := servers[0].Begin(ownerOf(ip), false)
	if err := w.Address(t.Context(), a); !errors.Is(err, ErrForeign) {
		t.Errorf("an address of a range that is gone: got %v, want %v", err, ErrForeign)
	}
	w.FreeAddress(a)
	w.End(true)
	if _, ok := o.all["ipaddresses//"+a.String()]; ok {
		t.Errorf("%s is still claimed", a)
	}
}
