// Package proxytest says how Services behave, by packets that travel between
// network namespaces. Every mode of the proxy passes it.
package proxytest

import (
	"cmp"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/proxy"
)

// Run has a mode pass all. backend returns a new one for each test.
func Run(t *testing.T, backend func() proxy.Backend) {
	for _, family := range []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol} {
		t.Run(string(family), func(t *testing.T) {
			w := newWorld(t, backend())
			for _, b := range behaviours {
				t.Run(b.name, func(t *testing.T) { w.behave(t, family, b) })
			}
			t.Run("affinity", func(t *testing.T) { w.affinity(t, family) })
			t.Run("UDP flows", func(t *testing.T) { w.flows(t, family) })
			t.Run("SCTP", func(t *testing.T) { w.sctp(t, family) })
			t.Run("path MTU", func(t *testing.T) { w.pathMTU(t, family) })
		})
	}
	t.Run("life", func(t *testing.T) { life(t, backend) })
}

// behaviour is a Service, its endpoints, and what happens to those who ask.
//
// An endpoint is the name of a host, with words: unready, going (terminating),
// broken (not serving), zone=… and node=… (hints).
//
// A question is "protocol from to answer"; the protocol ping is the echo of ICMP, which has no port. to is cluster, external, balancer (all
// port 80), node, second (the node's other address), loopback (all port 30080) or
// the last with :port. An answer is "server<client", of which all that are joined by
// | must come and no other; or refused, silent, or (of ping) answered.
type behaviour struct {
	name      string
	service   func(s *corev1.Service)
	endpoints []string
	node      func(n *proxy.Node)
	questions []string
}

var behaviours = []behaviour{
	{
		name:      "cluster IP",
		endpoints: []string{"near", "far"},
		questions: []string{
			"tcp beside cluster near<beside|far<beside", // pods keep their address
			"tcp outside cluster near<node|far<node",    // others must get their answers through the node
			"tcp node cluster near<node|far<node",
			"udp beside cluster near<beside|far<beside",
			"udp node cluster near<node|far<node",
			"ping beside cluster refused", "ping node cluster refused", "ping outside node answered",
		},
	},
	{
		name:      "a pod that asks itself",
		endpoints: []string{"near"},
		questions: []string{"tcp near cluster near<node", "udp near cluster near<node", "tcp near node near<node"},
	},
	{
		name:      "one endpoint in the node's own network",
		endpoints: []string{"node"},
		questions: []string{"tcp near cluster node<near", "tcp outside node node<outside", "tcp node cluster node<node"},
	},
	{
		name:      "node port",
		endpoints: []string{"near", "far"},
		questions: []string{
			"tcp outside node near<node|far<node", "tcp outside second near<node|far<node", "udp outside node near<node|far<node",
			"tcp near node near<node|far<node", "tcp node node near<node|far<node", "tcp node second near<node|far<node",
			"tcp node loopback near<node|far<node", "udp node loopback near<node|far<node",
			"tcp outside node:30081 refused",
		},
	},
	{
		name:      "external IP and load balancer",
		endpoints: []string{"far"},
		questions: []string{
			"tcp outside external far<node", "tcp near external far<node", "tcp node external far<node", "udp outside external far<node",
			"tcp outside balancer far<node", "tcp near balancer far<node", "tcp node balancer far<node", "udp outside balancer far<node",
		},
	},
	{
		name:      "no endpoints",
		questions: refusals("refused"),
	},
	{
		name:      "none that is ready or serves",
		endpoints: []string{"near unready", "far unready going broken"},
		questions: refusals("refused"),
	},
	{
		name:      "endpoints that terminate, and one that is ready",
		endpoints: []string{"near unready going", "far"},
		questions: []string{"tcp beside cluster far<beside", "tcp outside node far<node"},
	},
	{
		name:      "only endpoints that terminate",
		endpoints: []string{"near unready going", "far unready going broken"},
		questions: []string{"tcp beside cluster near<beside", "tcp outside node near<node"},
	},
	{
		name:      "published before it is ready",
		service:   func(s *corev1.Service) { s.Spec.PublishNotReadyAddresses = true },
		endpoints: []string{"near broken"}, // the controller calls such ready
		questions: []string{"tcp beside cluster near<beside"},
	},
	{
		name:      "external traffic stays on the node",
		service:   externalLocal,
		endpoints: []string{"near", "far"},
		questions: []string{
			"tcp outside node near<outside", "tcp outside balancer near<outside", "tcp outside external near<outside", "udp outside node near<outside",
			"tcp beside balancer near<beside|far<beside", // pods may go anywhere
			"tcp node balancer near<node|far<node", "tcp node node near<node|far<node", "tcp node loopback near<node|far<node",
			"tcp outside cluster near<node|far<node",
		},
	},
	{
		name:      "external traffic stays on a node without endpoints",
		service:   externalLocal,
		endpoints: []string{"far"},
		questions: []string{
			"tcp outside node silent", "tcp outside balancer silent", "udp outside external silent",
			"tcp beside balancer far<beside", "tcp node node far<node", "tcp beside cluster far<beside",
		},
	},
	{
		name:      "external traffic stays on a node whose last endpoint terminates",
		service:   externalLocal,
		endpoints: []string{"near unready going", "far"},
		questions: []string{"tcp outside node near<outside", "tcp beside cluster far<beside"},
	},
	{
		name:      "external traffic that stays, without any endpoints",
		service:   externalLocal,
		questions: refusals("refused"),
	},
	{
		name:      "internal traffic stays on the node",
		service:   internalLocal,
		endpoints: []string{"near", "far"},
		questions: []string{"tcp beside cluster near<beside", "tcp node cluster near<node", "tcp outside node near<node|far<node"},
	},
	{
		name:      "internal traffic stays on a node without endpoints",
		service:   internalLocal,
		endpoints: []string{"far"},
		questions: []string{"tcp beside cluster silent", "tcp outside node far<node"},
	},
	{
		name:      "internal traffic stays on a node whose last endpoint terminates",
		service:   internalLocal,
		endpoints: []string{"near unready going", "far"},
		questions: []string{"tcp beside cluster near<beside", "tcp outside node far<node"},
	},
	{
		name:      "all traffic stays on the node, in its own network",
		service:   func(s *corev1.Service) { externalLocal(s); internalLocal(s) },
		endpoints: []string{"node", "far"},
		questions: []string{"tcp outside node node<outside", "tcp beside cluster node<beside", "tcp node cluster node<node", "tcp near node node<near|far<near"},
	},
	{
		name:      "zones",
		endpoints: []string{"near zone=b", "far zone=a"},
		questions: []string{"tcp beside cluster far<beside", "tcp outside node far<node"},
	},
	{
		name:      "nodes before zones",
		endpoints: []string{"near zone=b node=here", "far zone=a node=there"},
		questions: []string{"tcp beside cluster near<beside"},
	},
	{
		name:      "clients of a load balancer",
		service:   allowed("192.0.2.9/32", "fd00:9::9/128"),
		endpoints: []string{"far"},
		questions: []string{
			"tcp outside balancer far<node", "tcp beside balancer silent", "udp outside balancer far<node",
			"tcp node balancer silent", "tcp outside node far<node", "tcp beside cluster far<beside", "tcp beside external far<node",
		},
	},
	{
		name:      "clients of a load balancer, the pods alone",
		service:   allowed("10.244.1.0/24", "fd44:0:0:2::/64"),
		endpoints: []string{"far"},
		questions: []string{"tcp outside balancer silent", "udp outside balancer silent", "tcp beside balancer far<node", "tcp near balancer silent"},
	},
	{
		name:      "clients of a load balancer that stays on the node",
		service:   func(s *corev1.Service) { externalLocal(s); allowed("192.0.2.0/24", "fd00:9::/64")(s) },
		endpoints: []string{"near", "far"},
		questions: []string{"tcp outside balancer near<outside", "tcp beside balancer silent"},
	},
	{
		name:      "node ports at some addresses",
		endpoints: []string{"far"},
		node: func(n *proxy.Node) {
			n.NodePorts = ranges().Pods[:0:0]
			for _, p := range []string{"198.51.100.0/24", "fd00:8::/64"} {
				n.NodePorts = append(n.NodePorts, prefix(p))
			}
		},
		questions: []string{"tcp outside second far<node", "tcp outside node refused", "tcp node loopback refused", "tcp beside cluster far<beside"},
	},
	{
		name:      "addresses and ports that no Service has",
		endpoints: []string{"near"},
		questions: []string{
			"tcp beside cluster:81 refused", "udp beside cluster:81 refused", "tcp node cluster:81 refused", "tcp outside cluster:81 refused",
		},
	},
	{
		name:      "another protocol",
		service:   func(s *corev1.Service) { s.Spec.Ports = s.Spec.Ports[:1] },
		endpoints: []string{"near"},
		questions: []string{"tcp beside cluster near<beside", "udp beside cluster refused", "udp node cluster refused", "udp outside node refused"},
	},
	{
		name:      "many endpoints at one address",
		service:   func(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityNone },
		endpoints: []string{"near", "near zone=b", "far"},
		questions: []string{"tcp beside cluster near<beside|far<beside"},
	},
}

func refusals(answer string) (questions []string) {
	for _, way := range []string{
		"tcp beside cluster", "tcp outside cluster", "tcp node cluster", "udp beside cluster", "udp node cluster",
		"tcp outside node", "udp outside node", "tcp node node", "tcp outside external", "tcp beside external", "tcp node balancer", "tcp outside balancer",
	} {
		questions = append(questions, way+" "+answer)
	}
	return questions
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
}

func allowed(ranges ...string) func(*corev1.Service) {
	return func(s *corev1.Service) { s.Spec.LoadBalancerSourceRanges = ranges }
}

// fronts are the addresses that to stands for.
var fronts = map[corev1.IPFamily]map[string]string{
	corev1.IPv4Protocol: {"cluster": "10.96.0.7", "external": "203.0.113.5", "balancer": "203.0.113.6", "node": node4, "second": second4, "loopback": "127.0.0.1"},
	corev1.IPv6Protocol: {"cluster": "fd96::7", "external": "fd00:7::5", "balancer": "fd00:7::6", "node": node6, "second": second6},
}

const nodePort = "30080"

func (w *world) behave(t *testing.T, family corev1.IPFamily, b behaviour) {
	node := ranges()
	if b.node != nil {
		b.node(&node)
	}
	w.become(t, table(w, node, b.service, b.endpoints))
	var asking sync.WaitGroup
	for _, question := range b.questions {
		words := strings.Fields(question)
		network, from, to, want := words[0], w.hosts[words[1]], target(family, words[2]), words[3]
		if to == "" {
			continue // Kubernetes has no node ports at the loopback of IPv6
		}
		asking.Go(func() {
			if got := w.answers(t, network, from, to, want); got != want {
				t.Errorf("%s: got %s", question, got)
			}
		})
	}
	asking.Wait()
}

// target is the address and port that to stands for; empty if the family has none.
func target(family corev1.IPFamily, to string) string {
	to, port, ok := strings.Cut(to, ":")
	if !ok {
		switch port = "80"; to {
		case "node", "second", "loopback":
			port = nodePort
		}
	}
	addr, ok := fronts[family][to]
	if !ok {
		return ""
	}
	return net.JoinHostPort(addr, port)
}

// answers asks until all that are wanted have come, or another one has, and a few
// times in any case.
func (w *world) answers(t *testing.T, network string, from host, to, want string) string {
	t.Helper()
	wanted := strings.Split(want, "|")
	times, wait := 4, arrival
	switch {
	case want == "silent":
		times, wait = 1, silence
	case len(wanted) > 1:
		times = 200 // for two that are alike one stays away with a probability of 2^-199
	}
	seen := make(map[string]bool)
	for range times {
		answer := w.ask(t, network, from, to, wait)
		if strings.HasPrefix(answer, want) {
			answer = want // without the words of an error
		}
		if seen[answer] = true; !slices.Contains(wanted, answer) || len(wanted) > 1 && len(seen) == len(wanted) {
			break
		}
	}
	if len(seen) == len(wanted) && !slices.ContainsFunc(wanted, func(answer string) bool { return !seen[answer] }) {
		return want
	}
	return strings.Join(slices.Sorted(maps.Keys(seen)), "|")
}

// table is that of one Service of both families.
func table(w *world, node proxy.Node, change func(*corev1.Service), endpoints []string) *proxy.Table {
	four, six := fronts[corev1.IPv4Protocol], fronts[corev1.IPv6Protocol]
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, ClusterIP: four["cluster"], ClusterIPs: []string{four["cluster"], six["cluster"]},
			ExternalIPs: []string{four["external"], six["external"]},
			Ports: []corev1.ServicePort{
				{Name: "tcp", Protocol: corev1.ProtocolTCP, Port: 80, NodePort: 30080},
				{Name: "udp", Protocol: corev1.ProtocolUDP, Port: 80, NodePort: 30080},
			},
		},
		Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{
			Ingress: []corev1.LoadBalancerIngress{{IP: four["balancer"]}, {IP: six["balancer"]}},
		}},
	}
	if change != nil {
		change(s)
	}
	var list []*discoveryv1.EndpointSlice
	for kind, family := range map[discoveryv1.AddressType]corev1.IPFamily{
		discoveryv1.AddressTypeIPv4: corev1.IPv4Protocol, discoveryv1.AddressTypeIPv6: corev1.IPv6Protocol,
	} {
		slice := &discoveryv1.EndpointSlice{AddressType: kind}
		for _, p := range s.Spec.Ports {
			slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Protocol: ptr.To(p.Protocol), Port: ptr.To(cmp.Or(p.TargetPort.IntVal, 8080))})
		}
		for _, text := range endpoints {
			slice.Endpoints = append(slice.Endpoints, endpoint(w, family, text))
		}
		list = append(list, slice)
	}
	return proxy.Compute(node, []*corev1.Service{s}, map[string][]*discoveryv1.EndpointSlice{"ns/web": list})
}

func endpoint(w *world, family corev1.IPFamily, text string) discoveryv1.Endpoint {
	words := strings.Fields(text)
	e := discoveryv1.Endpoint{Addresses: []string{w.hosts[words[0]].addr(family)}, NodeName: ptr.To("here")}
	if words[0] == "far" {
		e.NodeName = ptr.To("there")
	}
	for _, word := range words[1:] {
		key, value, _ := strings.Cut(word, "=")
		if value != "" && e.Hints == nil {
			e.Hints = &discoveryv1.EndpointHints{}
		}
		switch key {
		case "unready":
			e.Conditions.Ready = ptr.To(false)
		case "going":
			e.Conditions.Terminating = ptr.To(true)
		case "broken":
			e.Conditions.Serving = ptr.To(false)
		case "zone":
			e.Hints.ForZones = append(e.Hints.ForZones, discoveryv1.ForZone{Name: value})
		case "node":
			e.Hints.ForNodes = append(e.Hints.ForNodes, discoveryv1.ForNode{Name: value})
		default:
			panic(fmt.Sprintf("endpoint %q", text))
		}
	}
	return e
}

// affinity has a client stay with its endpoint while others come and go, until it
// has been away for the timeout or the endpoint is gone.
func (w *world) affinity(t *testing.T, family corev1.IPFamily) {
	sticky := func(seconds int32) func(*corev1.Service) {
		return func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To(seconds)}}
		}
	}
	ask := func(to string) string {
		t.Helper()
		return w.ask(t, "tcp", w.beside, target(family, to), arrival)
	}
	stays := func(to, want, why string) {
		t.Helper()
		for range 16 { // by chance with a probability of 2^-16
			if got := ask(to); got != want {
				t.Fatalf("%s: got %s, want %s", why, got, want)
			}
		}
	}
	w.become(t, table(w, ranges(), sticky(1000), []string{"near", "far"}))
	first := ask("cluster")
	stays("cluster", first, "nothing changed")
	w.become(t, table(w, ranges(), sticky(1000), []string{"near", "far", "outside"}))
	stays("cluster", first, "another endpoint came")
	here, there := "near", "far"
	if strings.HasPrefix(first, "far") {
		here, there = "far", "near"
	}
	w.become(t, table(w, ranges(), sticky(1000), []string{here, "outside"}))
	stays("cluster", first, "another endpoint went")
	w.become(t, table(w, ranges(), sticky(1000), []string{there}))
	stays("cluster", there+"<beside", "the endpoint went")
	w.become(t, table(w, ranges(), sticky(1), []string{"near", "far"}))
	for range 30 {
		first := ask("cluster")
		time.Sleep(1500 * time.Millisecond) // away for longer than the timeout
		if ask("cluster") != first {
			return
		}
	}
	t.Error("the client never changes, though it is away for longer than the timeout")
}
