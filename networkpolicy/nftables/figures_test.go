package nftables

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/networkpolicy"
	"github.com/skiff-k8s/skiff/proxy/nettest"
)

var figures = flag.Bool("figures", false, "measure what docs/network.md tells, which takes a while")

// TestPacketFigures measures what policies cost a packet. A sender of datagrams does all the work of their
// way to the other pod itself, so that the time it takes is what a packet costs.
func TestPacketFigures(t *testing.T) {
	if !*figures {
		t.Skip("only with -figures")
	}
	for _, n := range []int{0, 1, 10, 100, 1000} {
		l := newLab(t)
		for i := range n {
			manyPolicies(l.world, i, "a", "b")
		}
		begin := time.Now()
		l.apply()
		applied := time.Since(begin)
		conn, err := l.dial("a", "udp", hosts["b"][0]+":81", soon)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%4d policies about both pods: %d ns a packet; applied in %v", n, cheapest(conn), applied.Round(10*time.Microsecond))
		conn.Close()
	}
}

// manyPolicies makes the i-th policy, with a selector, a block and a port of its own. The last is what lets
// the packets pass.
func manyPolicies(w *networkpolicy.World, i int, pods ...string) {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: fmt.Sprint("policy-", i)}}
	p.Spec.PodSelector.MatchExpressions = []metav1.LabelSelectorRequirement{{Key: "pod", Operator: metav1.LabelSelectorOpIn, Values: pods}}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{"Ingress", "Egress"}
	other := networkingv1.NetworkPolicyPeer{PodSelector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{
		{Key: fmt.Sprint("not-", i), Operator: metav1.LabelSelectorOpDoesNotExist},
	}}}
	peers := []networkingv1.NetworkPolicyPeer{other, block(fmt.Sprintf("172.%d.%d.0/24", 16+i/256, i%256))}
	ports := []networkingv1.NetworkPolicyPort{port("UDP", intstr.FromInt(81)), port("TCP", intstr.FromInt(1000+i))}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: peers, Ports: ports}}
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: peers, Ports: ports}}
	w.SetPolicy(p)
}

// cheapest is the least time that a packet takes in nanoseconds, of several rounds.
func cheapest(conn net.Conn) int64 {
	const rounds, packets = 1000, 300 // short, so that some are not disturbed
	best := int64(1 << 62)
	for range rounds {
		begin := time.Now()
		for range packets {
			_, _ = conn.Write([]byte("0123456789"))
		}
		best = min(best, time.Since(begin).Nanoseconds()/packets)
	}
	return best
}

// TestScaleFigures measures a large cluster on one node: 50 namespaces with 100 pods and 20 policies each.
func TestScaleFigures(t *testing.T) {
	if !*figures {
		t.Skip("only with -figures")
	}
	node := nettest.New(t)
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	w := networkpolicy.NewWorld("here")
	begin := time.Now()
	for n := range 50 {
		ns := fmt.Sprint("ns-", n)
		w.SetNamespace(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns, Labels: map[string]string{"kubernetes.io/metadata.name": ns, "team": fmt.Sprint(n % 5)}}})
		for i := range 20 {
			w.SetPolicy(scalePolicy(ns, i))
		}
		for i := range 100 {
			w.SetPod(scalePod(ns, n, i))
		}
	}
	t.Logf("5,000 pods and 1,000 policies told in %v", time.Since(begin).Round(time.Millisecond))
	var backend *Backend
	apply := func(what string) {
		t.Helper()
		begin := time.Now()
		table := w.Table()
		computed := time.Since(begin)
		var err error
		node.Do(t, func() {
			if backend == nil {
				backend, err = New()
			}
			if err == nil {
				err = backend.Apply(table)
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %v, of which the table %v", what, time.Since(begin).Round(10*time.Microsecond), computed.Round(10*time.Microsecond))
	}
	apply("first")
	for range 3 {
		p := scalePod("ns-7", 250, int(time.Now().UnixNano()%200))
		p.UID = types.UID(fmt.Sprint(time.Now().UnixNano()))
		begin := time.Now()
		w.SetPod(p)
		t.Logf("told of a pod in %v", time.Since(begin).Round(10*time.Microsecond))
		apply("one pod more")
		begin = time.Now()
		w.SetPolicy(scalePolicy("ns-7", 100+int(time.Now().UnixNano()%200)))
		t.Logf("told of a policy in %v", time.Since(begin).Round(10*time.Microsecond))
		apply("one policy more")
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	t.Logf("%d MB of memory", (after.HeapAlloc-before.HeapAlloc)>>20)
	runtime.KeepAlive(w)
}

// inside is a backend of another network namespace, which notes when it has applied what.
type inside struct {
	*lab
	applied chan *networkpolicy.Table
}

func (i inside) Apply(t *networkpolicy.Table) (err error) {
	i.node.Do(i.t, func() { err = i.backend.Apply(t) })
	select {
	case i.applied <- t:
	default:
	}
	return err
}

func (i inside) Intact() (ok bool, err error) {
	i.node.Do(i.t, func() { ok, err = i.backend.Intact() })
	return ok, err
}

// TestEffectFigures measures how long it takes from the write of a policy to the API until it is in force, and how long the
// start of a pod waits.
func TestEffectFigures(t *testing.T) {
	if !*figures {
		t.Skip("only with -figures")
	}
	l := inside{newLab(t), make(chan *networkpolicy.Table, 1)}
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "admin", "system:masters"))
	engine, err := networkpolicy.New(networkpolicy.Config{Client: client, NodeName: "here", Backend: l})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = engine.Run(t.Context()) }()
	var admitted, effective []time.Duration
	for i := range 40 {
		p := l.pod("b")
		p.Namespace, p.UID = "default", types.UID(fmt.Sprint(i))
		addr := netip.AddrFrom4([4]byte{10, 9, 1, byte(i)})
		begin := time.Now()
		if err := engine.Admit(t.Context(), p, []netip.Addr{addr}); err != nil {
			t.Fatal(err)
		}
		admitted = append(admitted, time.Since(begin))
		for len(l.applied) > 0 {
			<-l.applied
		}
		policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}}
		policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{from(podNamed("a"))}
		policy.Spec.PodSelector.MatchLabels = map[string]string{"pod": "b"}
		begin = time.Now()
		if _, err := client.NetworkingV1().NetworkPolicies("default").Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		<-l.applied
		effective = append(effective, time.Since(begin))
	}
	for what, list := range map[string][]time.Duration{"a pod waits": admitted, "a policy takes": effective} {
		slices.Sort(list)
		t.Logf("%s %v, at most %v", what, list[len(list)/2].Round(10*time.Microsecond), list[len(list)-1].Round(10*time.Microsecond))
	}
}

func scalePod(ns string, n, i int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint(i), UID: types.UID(fmt.Sprint(ns, "/", i)), Labels: map[string]string{
		"app": fmt.Sprint(i % 10), "pod-template-hash": fmt.Sprint(n), "tier": fmt.Sprint(i % 3),
	}}}
	p.Spec.NodeName = fmt.Sprint("node-", (100*n+i)%50)
	if (100*n+i)%50 == 0 {
		p.Spec.NodeName = "here" // 100 of them
	}
	p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.%d.%d.2", n, i)}}
	return p
}

// scalePolicy lets apps talk to each other, and a team's namespaces, as policies in use do.
func scalePolicy(ns string, i int) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: fmt.Sprint("p", i)}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": fmt.Sprint(i % 10)}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{
		From: []networkingv1.NetworkPolicyPeer{
			{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint((i + 1) % 10)}}},
			{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": fmt.Sprint(i % 5)}}, PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"tier": fmt.Sprint(i % 3)}}},
			block(fmt.Sprintf("192.168.%d.0/24", i%256)),
		},
		Ports: []networkingv1.NetworkPolicyPort{port("TCP", intstr.FromInt(8000+i)), port("UDP", intstr.FromInt(53))},
	}}
	return p
}
