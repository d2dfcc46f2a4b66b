package networkpolicy

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// packet is the first of a flow, as the node that judges it sees it.
type packet struct {
	from, to netip.Addr
	protocol uint8
	port     uint16
}

// allows is what the kernel does with a packet by t.
func (t *Table) allows(p packet) bool {
	if p.from == p.to {
		return true
	}
	return t.passes(Egress, p.from, p.to, p) && t.passes(Ingress, p.to, p.from, p)
}

func (t *Table) passes(d Direction, subject, peer netip.Addr, p packet) bool {
	profile := t.Isolated[d][subject]
	if profile == nil {
		return true
	}
	if open(profile.Anyone, p) {
		return true
	}
	if class, ok := t.Classes[peer]; ok && open(profile.Classes[class], p) {
		return true
	}
	for _, b := range profile.Blocks {
		if (span{b.First, b.Last}).contains(peer) {
			return open(b.Ports, p) // blocks are disjoint
		}
	}
	return false
}

func open(list []Ports, p packet) bool {
	for _, r := range list {
		if r.FirstProtocol <= p.protocol && p.protocol <= r.LastProtocol && r.First <= p.port && p.port <= r.Last {
			return true
		}
	}
	return false
}

// cluster is the objects of a test, which the judge reads as they are.
type cluster struct {
	node       string
	namespaces map[string]*corev1.Namespace
	pods       map[types.UID]*corev1.Pod
	policies   map[string]*networkingv1.NetworkPolicy
}

// judge says whether a packet passes, straight from the objects and slowly: as the API describes each field.
func (c *cluster) judge(p packet) bool {
	from, to := c.at(p.from), c.at(p.to)
	if p.from == p.to {
		return true
	}
	if from != nil && from.Spec.NodeName == c.node && !c.permits(from, to, p, networkingv1.PolicyTypeEgress) {
		return false
	}
	return to == nil || to.Spec.NodeName != c.node || c.permits(to, from, p, networkingv1.PolicyTypeIngress)
}

// at is the pod that has an address.
func (c *cluster) at(addr netip.Addr) *corev1.Pod {
	for _, pod := range c.pods {
		if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
			continue
		}
		for _, ip := range pod.Status.PodIPs {
			if netip.MustParseAddr(ip.IP) == addr {
				return pod
			}
		}
	}
	return nil
}

func (c *cluster) permits(subject, peer *corev1.Pod, p packet, direction networkingv1.PolicyType) bool {
	isolated := false
	for _, policy := range c.policies {
		if policy.Namespace != subject.Namespace || !matches(&policy.Spec.PodSelector, subject.Labels) || !hasType(&policy.Spec, direction) {
			continue
		}
		isolated = true
		if direction == networkingv1.PolicyTypeIngress {
			for _, r := range policy.Spec.Ingress {
				if c.peers(policy.Namespace, r.From, peer, p.from) && ports(r.Ports, subject, p) {
					return true
				}
			}
			continue
		}
		for _, r := range policy.Spec.Egress {
			if c.peers(policy.Namespace, r.To, peer, p.to) && ports(r.Ports, peer, p) {
				return true
			}
		}
	}
	return !isolated
}

func hasType(s *networkingv1.NetworkPolicySpec, direction networkingv1.PolicyType) bool {
	if len(s.PolicyTypes) == 0 {
		return direction == networkingv1.PolicyTypeIngress || len(s.Egress) > 0
	}
	for _, t := range s.PolicyTypes {
		if t == direction {
			return true
		}
	}
	return false
}

func (c *cluster) peers(namespace string, list []networkingv1.NetworkPolicyPeer, pod *corev1.Pod, addr netip.Addr) bool {
	for _, peer := range list {
		if peer.IPBlock != nil {
			in := netip.MustParsePrefix(peer.IPBlock.CIDR).Contains(addr)
			for _, except := range peer.IPBlock.Except {
				in = in && !netip.MustParsePrefix(except).Contains(addr)
			}
			if in {
				return true
			}
			continue
		}
		if pod == nil {
			continue
		}
		ok := pod.Namespace == namespace
		if peer.NamespaceSelector != nil {
			ns := c.namespaces[pod.Namespace]
			ok = ns != nil && matches(peer.NamespaceSelector, ns.Labels)
		}
		if ok && (peer.PodSelector == nil || matches(peer.PodSelector, pod.Labels)) {
			return true
		}
	}
	return len(list) == 0
}

// matches knows the selectors that the tests make.
func matches(s *metav1.LabelSelector, labels map[string]string) bool {
	for k, v := range s.MatchLabels {
		if labels[k] != v {
			return false
		}
	}
	for _, e := range s.MatchExpressions {
		v, has := labels[e.Key]
		in := false
		for _, want := range e.Values {
			in = in || has && v == want
		}
		switch e.Operator {
		case metav1.LabelSelectorOpIn:
			if !in {
				return false
			}
		case metav1.LabelSelectorOpNotIn:
			if in {
				return false
			}
		case metav1.LabelSelectorOpExists:
			if !has {
				return false
			}
		case metav1.LabelSelectorOpDoesNotExist:
			if has {
				return false
			}
		}
	}
	return true
}

var protocols = map[uint8]corev1.Protocol{6: corev1.ProtocolTCP, 17: corev1.ProtocolUDP, 132: corev1.ProtocolSCTP}

// ports says whether a packet to destination goes to one of the ports.
func ports(list []networkingv1.NetworkPolicyPort, destination *corev1.Pod, p packet) bool {
	for _, want := range list {
		if ptr.Deref(want.Protocol, corev1.ProtocolTCP) != protocols[p.protocol] {
			continue
		}
		switch {
		case want.Port == nil:
			return true
		case want.Port.Type == intstr.Int:
			first := uint16(want.Port.IntVal)
			last := uint16(ptr.Deref(want.EndPort, int32(first)))
			if first <= p.port && p.port <= last {
				return true
			}
		case destination != nil:
			for _, container := range destination.Spec.Containers {
				for _, port := range container.Ports {
					if port.Name == want.Port.StrVal && port.Protocol == protocols[p.protocol] && uint16(port.ContainerPort) == p.port {
						return true
					}
				}
			}
		}
	}
	return len(list) == 0
}

// dice makes objects of few names and numbers, so that they meet. It reads chances from bytes, which a fuzzer
// chooses.
type dice struct{ bytes []byte }

func (d *dice) roll(n int) int {
	if len(d.bytes) == 0 {
		return 0
	}
	v := int(d.bytes[0]) % n
	d.bytes = d.bytes[1:]
	return v
}

func pick[T any](d *dice, list ...T) T { return list[d.roll(len(list))] }

func (d *dice) labels() map[string]string {
	l := make(map[string]string)
	for _, k := range []string{"a", "b"} {
		if v := d.roll(3); v > 0 {
			l[k] = fmt.Sprint(v)
		}
	}
	return l
}

func (d *dice) selector() *metav1.LabelSelector {
	switch d.roll(4) {
	case 0:
		return &metav1.LabelSelector{}
	case 1:
		return &metav1.LabelSelector{MatchLabels: d.labels()}
	default:
		e := metav1.LabelSelectorRequirement{Key: pick(d, "a", "b"), Operator: pick(d,
			metav1.LabelSelectorOpIn, metav1.LabelSelectorOpNotIn, metav1.LabelSelectorOpExists, metav1.LabelSelectorOpDoesNotExist)}
		if e.Operator == metav1.LabelSelectorOpIn || e.Operator == metav1.LabelSelectorOpNotIn {
			e.Values = pick(d, []string{"1"}, []string{"2"}, []string{"1", "2"})
		}
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{e}}
	}
}

func (d *dice) protocol() corev1.Protocol {
	return pick(d, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
}

func (d *dice) ports() (list []networkingv1.NetworkPolicyPort) {
	for range d.roll(3) {
		p := networkingv1.NetworkPolicyPort{Protocol: ptr.To(d.protocol())}
		if d.roll(4) == 0 {
			p.Protocol = nil // TCP
		}
		switch d.roll(4) {
		case 0:
			p.Port = ptr.To(intstr.FromString(pick(d, "x", "y")))
		case 1:
			p.Port = ptr.To(intstr.FromInt(d.roll(6)))
		case 2:
			first := d.roll(6)
			p.Port, p.EndPort = ptr.To(intstr.FromInt(first)), ptr.To(int32(first+d.roll(3)))
		}
		list = append(list, p)
	}
	return list
}

func (d *dice) peers() (list []networkingv1.NetworkPolicyPeer) {
	for range d.roll(4) {
		var p networkingv1.NetworkPolicyPeer
		switch d.roll(5) {
		case 0:
			p.PodSelector = d.selector()
		case 1:
			p.NamespaceSelector = d.selector()
		case 2:
			p.NamespaceSelector, p.PodSelector = d.selector(), d.selector()
		case 3:
			p.IPBlock = &networkingv1.IPBlock{CIDR: pick(d, "0.0.0.0/0", "10.0.0.0/30", "10.0.0.4/30", "10.0.0.0/28", "255.255.255.252/30")}
			if p.IPBlock.CIDR == "0.0.0.0/0" {
				p.IPBlock.Except = pick(d, nil, []string{"10.0.0.2/31"}, []string{"10.0.0.0/30", "10.0.0.1/32"}, []string{"255.255.255.255/32"})
			}
		case 4:
			p.IPBlock = &networkingv1.IPBlock{CIDR: pick(d, "::/0", "fd00::/126", "fd00::4/127")}
			if p.IPBlock.CIDR == "::/0" {
				p.IPBlock.Except = pick(d, nil, []string{"fd00::2/127"})
			}
		}
		list = append(list, p)
	}
	return list
}

func (d *dice) policy() *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: pick(d, "m", "n"), Name: pick(d, "p", "q", "r")}}
	p.Spec.PodSelector = *d.selector()
	p.Spec.PolicyTypes = pick(d, nil, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress},
		[]networkingv1.PolicyType{networkingv1.PolicyTypeEgress}, []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress})
	for range d.roll(3) {
		p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: d.peers(), Ports: d.ports()})
	}
	for range d.roll(3) {
		p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: d.peers(), Ports: d.ports()})
	}
	return p
}

// pod is the i-th pod, which has addresses of its own.
func (d *dice) pod(i int) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(i)), Name: fmt.Sprint(i), Namespace: pick(d, "m", "n", "unknown"), Labels: d.labels()}}
	p.Spec.NodeName = pick(d, "here", "here", "there")
	p.Spec.HostNetwork = d.roll(8) == 7
	p.Status.Phase = pick(d, corev1.PodRunning, corev1.PodRunning, corev1.PodPending, corev1.PodSucceeded, corev1.PodFailed)
	if d.roll(8) < 7 {
		p.Status.PodIPs = []corev1.PodIP{{IP: fmt.Sprintf("10.0.0.%d", i)}, {IP: fmt.Sprintf("fd00::%d", i)}}
	}
	var container corev1.Container
	for _, name := range []string{"x", "y"} {
		if d.roll(3) > 0 {
			container.Ports = append(container.Ports, corev1.ContainerPort{Name: name, ContainerPort: int32(1 + d.roll(6)), Protocol: d.protocol()})
		}
	}
	p.Spec.Containers = []corev1.Container{container}
	return p
}

const manyPods = 8

// change makes one random change to both.
func (d *dice) change(w *World, c *cluster) {
	switch d.roll(8) {
	case 0:
		n := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: pick(d, "m", "n"), Labels: d.labels()}}
		c.namespaces[n.Name] = n
		w.SetNamespace(n)
	case 1:
		name := pick(d, "m", "n")
		delete(c.namespaces, name)
		w.DeleteNamespace(name)
	case 2:
		for id := range c.policies {
			p := c.policies[id]
			delete(c.policies, id)
			w.DeletePolicy(p.Namespace, p.Name)
			break
		}
	case 3:
		uid := types.UID(fmt.Sprint(d.roll(manyPods)))
		delete(c.pods, uid)
		w.DeletePod(uid)
	case 4, 5:
		p := d.policy()
		c.policies[p.Namespace+"/"+p.Name] = p
		w.SetPolicy(p)
	default:
		p := d.pod(d.roll(manyPods))
		if old := c.pods[p.UID]; old != nil { // what an object can never change
			p.Namespace = old.Namespace
		}
		c.pods[p.UID] = p
		w.SetPod(p)
	}
}

// checkAll compares every packet that the numbers of the test allow.
func (c *cluster) checkAll(t *testing.T, table *Table) {
	t.Helper()
	var addrs [][]netip.Addr
	for _, format := range []string{"10.0.0.%d", "fd00::%d"} {
		var list []netip.Addr
		for i := range manyPods + 1 { // the last is no pod's
			list = append(list, netip.MustParseAddr(fmt.Sprintf(format, i)))
		}
		addrs = append(addrs, list)
	}
	addrs[0] = append(addrs[0], netip.MustParseAddr("255.255.255.255"), netip.MustParseAddr("255.255.255.253"))
	for _, list := range addrs {
		for _, from := range list {
			for _, to := range list {
				for _, protocol := range []uint8{1, 6, 17, 132} {
					for port := range uint16(8) {
						p := packet{from, to, protocol, port}
						if got, want := table.allows(p), c.judge(p); got != want {
							t.Fatalf("%+v passes: %v, want %v\n%s", p, got, want, c)
						}
					}
				}
			}
		}
	}
}

func (c *cluster) String() string {
	var text string
	for _, p := range c.policies {
		text += fmt.Sprintf("policy %s/%s: %+v\n", p.Namespace, p.Name, p.Spec)
	}
	for _, p := range c.pods {
		text += fmt.Sprintf("pod %s in %s %v on %s %v %+v\n", p.Name, p.Namespace, p.Labels, p.Spec.NodeName, p.Status.PodIPs, p.Spec.Containers)
	}
	for _, n := range c.namespaces {
		text += fmt.Sprintf("namespace %s %v\n", n.Name, n.Labels)
	}
	return text
}

func checkChanges(t *testing.T, bytes []byte) {
	c := &cluster{node: "here", namespaces: make(map[string]*corev1.Namespace), pods: make(map[types.UID]*corev1.Pod), policies: make(map[string]*networkingv1.NetworkPolicy)}
	w := NewWorld(c.node)
	d := &dice{bytes}
	for len(d.bytes) > 0 {
		for range 1 + d.roll(4) {
			d.change(w, c)
		}
		c.checkAll(t, w.Table())
	}
	w.checkEmptied(t, c)
}

// checkEmptied takes everything away and looks that nothing of it is left.
func (w *World) checkEmptied(t *testing.T, c *cluster) {
	t.Helper()
	for _, p := range c.policies {
		w.DeletePolicy(p.Namespace, p.Name)
	}
	if len(w.selectors)+len(w.names)+len(w.profiles)+len(w.classes) > 0 {
		t.Errorf("without policies there are selectors %v, names %v, profiles %v, classes %v", w.selectors, w.names, w.profiles, w.classes)
	}
	for uid := range c.pods {
		w.DeletePod(uid)
	}
	if len(w.pods)+len(w.within) > 0 {
		t.Errorf("without pods there are %v %v", w.pods, w.within)
	}
}

// TestEveryPacket compares what the table says of every packet with what the objects say, after random
// changes.
func TestEveryPacket(t *testing.T) {
	for seed := range uint64(30) {
		random := rand.New(rand.NewPCG(seed, 0))
		bytes := make([]byte, 1200)
		for i := range bytes {
			bytes[i] = byte(random.Uint32())
		}
		t.Run(fmt.Sprint(seed), func(t *testing.T) { checkChanges(t, bytes) })
	}
}

func FuzzEveryPacket(f *testing.F) {
	f.Add([]byte("policies, pods and namespaces that meet each other"))
	f.Fuzz(func(t *testing.T, bytes []byte) { checkChanges(t, bytes[:min(len(bytes), 600)]) })
}
