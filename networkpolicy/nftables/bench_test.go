package nftables

import (
	"fmt"
	"net/netip"
	"testing"

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

// BenchmarkPacket is what policies cost a packet. A sender of datagrams does all the work of their way to the other pod
// itself, so that the time it takes is what a packet costs.
func BenchmarkPacket(b *testing.B) {
	for _, n := range []int{0, 1, 10, 100, 1000} {
		b.Run(fmt.Sprint(n, " policies"), func(b *testing.B) {
			l := newLab(b)
			for i := range n {
				manyPolicies(l.world, i, "a", "b")
			}
			l.apply()
			conn, err := l.dial("a", "udp", hosts["b"][0]+":81", soon)
			if err != nil {
				b.Fatal(err)
			}
			defer conn.Close()
			if !echo(conn, soon) {
				b.Fatal("packets do not pass")
			}
			for b.Loop() {
				_, _ = conn.Write([]byte("0123456789"))
			}
		})
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

// largeWorld is a large cluster: 50 namespaces with 100 pods and 20 policies each; 100 of the pods are on this node.
func largeWorld() *networkpolicy.World {
	w := networkpolicy.NewWorld("here")
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
	return w
}

// BenchmarkFirst makes the rules of a node of a large cluster from nothing.
func BenchmarkFirst(b *testing.B) {
	w, node := largeWorld(), nettest.New(b)
	for b.Loop() {
		enforce(b, node, newBackend(b), w)
	}
}

// BenchmarkPodMore has one pod more in it, BenchmarkPolicyMore one policy.
func BenchmarkPodMore(b *testing.B) {
	oneMore(b, func(w *networkpolicy.World, i int) {
		p := scalePod("ns-7", 250, i%200)
		p.UID = types.UID(fmt.Sprint(i))
		w.SetPod(p)
	})
}

func BenchmarkPolicyMore(b *testing.B) {
	oneMore(b, func(w *networkpolicy.World, i int) { w.SetPolicy(scalePolicy("ns-7", 100+i%200)) })
}

func oneMore(b *testing.B, change func(w *networkpolicy.World, i int)) {
	w, node, backend := largeWorld(), nettest.New(b), newBackend(b)
	enforce(b, node, backend, w)
	for i := 0; b.Loop(); i++ {
		change(w, i)
		enforce(b, node, backend, w)
	}
}

func newBackend(b *testing.B) *Backend {
	b.Helper()
	backend, err := New(false)
	if err != nil {
		b.Fatal(err)
	}
	return backend
}

func enforce(b *testing.B, node *nettest.Namespace, backend *Backend, w *networkpolicy.World) {
	b.Helper()
	var err error
	node.Do(b, func() { err = backend.Apply(w.Table()) })
	if err != nil {
		b.Fatal(err)
	}
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

// BenchmarkAdmit is how long the start of a pod waits, BenchmarkEffect how long it takes from the write of a policy to
// the API until it is in force.
func BenchmarkAdmit(b *testing.B) {
	l, _, engine := running(b)
	for i := 0; b.Loop(); i++ {
		if err := engine.Admit(b.Context(), numberedPod(l.lab, i), []netip.Addr{netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)})}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEffect(b *testing.B) {
	l, client, engine := running(b)
	if err := engine.Admit(b.Context(), numberedPod(l.lab, 0), []netip.Addr{netip.MustParseAddr("10.9.1.1")}); err != nil {
		b.Fatal(err)
	}
	for i := 0; b.Loop(); i++ {
		for len(l.applied) > 0 {
			<-l.applied
		}
		policy := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}}
		policy.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{from(podNamed("a"))}
		policy.Spec.PodSelector.MatchLabels = map[string]string{"pod": "b"}
		if _, err := client.NetworkingV1().NetworkPolicies("default").Create(b.Context(), policy, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		<-l.applied
	}
}

// running is an engine that follows an API, and enforces in a lab.
func running(b *testing.B) (inside, kubernetes.Interface, *networkpolicy.Engine) {
	b.Helper()
	l := inside{newLab(b), make(chan *networkpolicy.Table, 1)}
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(b, nil), "admin", "system:masters"))
	engine, err := networkpolicy.New(networkpolicy.Config{Client: client, NodeName: "here", Backend: l})
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = engine.Run(b.Context()) }()
	return l, client, engine
}

func numberedPod(l *lab, i int) *corev1.Pod {
	p := l.pod("b")
	p.Namespace, p.UID = "default", types.UID(fmt.Sprint(i))
	return p
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
