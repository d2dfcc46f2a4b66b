package proxy

import (
	"net"
	"net/netip"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestInUse(t *testing.T) {
	here := netip.MustParseAddr("127.0.0.1")
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		l, err := net.Listen("tcp", listen)
		if err != nil {
			t.Fatal(err)
		}
		at := netip.AddrPortFrom(here, uint16(l.Addr().(*net.TCPAddr).Port))
		conn, err := net.Dial("tcp4", at.String())
		if err != nil {
			t.Fatal(err)
		}
		if !inUse(corev1.ProtocolTCP, at) {
			t.Errorf("%s: nobody is said to listen at %s", listen, at)
		}
		if inUse(corev1.ProtocolUDP, at) || inUse(corev1.ProtocolTCP, netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), at.Port())) {
			t.Errorf("%s: another protocol or address is said to be in use", listen)
		}
		l.Close()
		conn.Close() // it stays a while in the kernel
		if inUse(corev1.ProtocolTCP, at) {
			t.Errorf("%s: after the end somebody is said to listen", listen)
		}
	}
	p, err := net.ListenPacket("udp", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if !inUse(corev1.ProtocolUDP, netip.AddrPortFrom(here, uint16(p.LocalAddr().(*net.UDPAddr).Port))) {
		t.Error("UDP: nobody is said to listen")
	}
}

// TestProgramsOfTheNodeKeepTheirPorts has a program listen where a load balancer
// would: the Service does without, and is told. What a Service has it keeps.
func TestProgramsOfTheNodeKeepTheirPorts(t *testing.T) {
	service := func(name string, port int32) *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIP: "10.96.0.9", Ports: []corev1.ServicePort{
				{Port: port, Protocol: corev1.ProtocolTCP},
			}},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}}},
		}
	}
	fronts := func(t *Table) (n int) {
		for _, f := range t.Rules[0].Fronts {
			if f.Kind == LoadBalancer {
				n++
			}
		}
		return n
	}
	busy := func(corev1.Protocol, netip.AddrPort) bool { return true }
	refused := Compute(Node{Taken: busy}, []*corev1.Service{service("s", 80)}, nil)
	if fronts(refused) != 0 || len(refused.Refused) != 1 || refused.Refused[0].String() != "ns/s: TCP of 192.0.2.1:80 is a program of the node's" {
		t.Errorf("got %+v", refused)
	}
	free := Compute(Node{}, []*corev1.Service{service("s", 80)}, nil)
	if fronts(free) != 1 {
		t.Errorf("got %+v", free)
	}

	listening := true
	l := NewLedger(Node{Taken: func(corev1.Protocol, netip.AddrPort) bool { return listening }})
	l.Set("ns/s", service("s", 80), nil)
	if got := l.Table(); fronts(got) != 0 {
		t.Errorf("while the program listens: got %+v", got.Rules[0])
	}
	listening = false
	l.Retry()
	if got := l.Table(); fronts(got) != 1 || len(got.Refused) != 0 {
		t.Errorf("after it has ended: got %+v, refused %v", got.Rules[0], got.Refused)
	}
	listening = true
	l.Set("ns/s", service("s", 80), nil)
	if got := l.Table(); fronts(got) != 1 {
		t.Errorf("what the Service has was taken from it: got %+v", got.Rules[0])
	}
}

// TestServiceIsToldOfARefusedPort has two Services want one address: the younger
// has an event that says so.
func TestServiceIsToldOfARefusedPort(t *testing.T) {
	var objects []*corev1.Service
	for i, name := range []string{"old", "young"} {
		objects = append(objects, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, CreationTimestamp: metav1.Unix(int64(i), 0)},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, ClusterIP: []string{"10.96.0.8", "10.96.0.9"}[i], Ports: []corev1.ServicePort{
				{Name: "http", Port: 80, Protocol: corev1.ProtocolTCP},
			}},
			Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: []corev1.LoadBalancerIngress{{IP: "192.0.2.1"}}}},
		})
	}
	client := fake.NewClientset(objects[0], objects[1])
	p, err := New(Config{Client: client, NodeName: "n", Backend: make(tables, 100)})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	ctx := t.Context()
	go func() { ended <- p.Run(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		list, err := client.CoreV1().Events("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if len(list.Items) == 1 {
			e := list.Items[0]
			if e.InvolvedObject.Name != "young" || e.Reason != "LoadBalancerPortInUse" || e.Message != "n takes no traffic at 192.0.2.1 port 80/TCP: it is ns/old's" {
				t.Errorf("got %s %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d events", len(list.Items))
		}
	}
}
