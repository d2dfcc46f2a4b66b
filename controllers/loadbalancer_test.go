package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-k8s/skiff/controllers"
	balancing "github.com/skiff-k8s/skiff/controllers/services"
)

const balancerFinalizer = "service.kubernetes.io/load-balancer-cleanup"

// addressed gives the nodes that pretend addresses.
func (w *world) addressed() {
	w.t.Helper()
	for i, name := range nodes {
		patch := fmt.Sprintf(`{"status":{"addresses":[{"type":"InternalIP","address":"192.0.2.%d"}]}}`, i+1)
		if _, err := w.CoreV1().Nodes().Patch(w.t.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}, "status"); err != nil {
			w.t.Fatal(err)
		}
	}
}

// balances waits until a Service has these addresses, and the finalizer if it is a load balancer.
func (w *world) balances(name string, want ...string) {
	w.t.Helper()
	w.eventually("the addresses of "+name, func() error {
		s, err := w.CoreV1().Services(w.namespace).Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var got []string
		for _, i := range s.Status.LoadBalancer.Ingress {
			if i.IPMode == nil || *i.IPMode != corev1.LoadBalancerIPModeVIP {
				return fmt.Errorf("ipMode %v", i.IPMode)
			}
			got = append(got, i.IP)
		}
		balancer := s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.LoadBalancerClass == nil
		if !slices.Equal(got, want) || slices.Contains(s.Finalizers, balancerFinalizer) != balancer {
			return fmt.Errorf("got %v, finalizers %v, want %v", got, s.Finalizers, want)
		}
		return nil
	})
}

// informed waits for an event about an object with a text in it.
func (w *world) informed(name, reason, text string) {
	w.t.Helper()
	w.eventually("an event "+reason, func() error {
		list, err := w.CoreV1().Events(w.namespace).List(w.t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=" + name})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
		}
		return fmt.Errorf("not among %d", len(list.Items))
	})
}

func TestLoadBalancerHasAddressesOfNodes(t *testing.T) {
	w := start(t)
	w.addressed()
	client := w.CoreV1().Services(w.namespace)
	create := func(name string, change func(*corev1.ServiceSpec)) {
		t.Helper()
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeLoadBalancer, Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}},
		}}
		if change != nil {
			change(&s.Spec)
		}
		if _, err := client.Create(t.Context(), s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	patch := func(name, text string) {
		t.Helper()
		if _, err := client.Patch(t.Context(), name, types.MergePatchType, []byte(text), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("web", nil)
	w.balances("web", "192.0.2.1", "192.0.2.2")
	w.informed("web", "EnsuredLoadBalancer", "Ensured load balancer")

	create("second", nil)
	w.informed("second", "SyncLoadBalancerFailed", "port 80/TCP of the nodes is taken by Service test/web")
	w.balances("second")
	create("other", func(s *corev1.ServiceSpec) { s.LoadBalancerClass = ptr("example.com/other") })
	create("local", func(s *corev1.ServiceSpec) {
		s.ExternalTrafficPolicy, s.Ports[0].Port = corev1.ServiceExternalTrafficPolicyLocal, 81
		s.AllocateLoadBalancerNodePorts = ptr(false)
	})
	w.balances("local")
	w.deployment("local", "x", 2)
	w.balances("local", "192.0.2.1", "192.0.2.2")

	// What another writes into the status of a Service of ours does not stay.
	if _, err := client.Patch(t.Context(), "web", types.MergePatchType, []byte(`{"status":{"loadBalancer":{"ingress":[{"ip":"203.0.113.1"}]}}}`), metav1.PatchOptions{}, "status"); err != nil {
		t.Fatal(err)
	}
	w.balances("web", "192.0.2.1", "192.0.2.2")

	if err := w.CoreV1().Nodes().Delete(t.Context(), "n2", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.balances("web", "192.0.2.1")
	w.informed("web", "UpdatedLoadBalancer", "new hosts")

	// No load balancer any more; after that its port is free. Controllers that start anew know what was theirs.
	w.restart()
	patch("web", `{"spec":{"type":"ClusterIP"}}`)
	w.balances("web")
	w.balances("second", "192.0.2.1")
	w.balances("other")
	if err := client.Delete(t.Context(), "second", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of a load balancer", func() error {
		_, err := client.Get(t.Context(), "second", metav1.GetOptions{})
		return gone(err)
	})
	patch("web", `{"spec":{"type":"LoadBalancer"}}`)
	w.balances("web", "192.0.2.1")
}

// TestLoadBalancerLeavesPortsToIngresses has an Ingress between two Services that want its port.
func TestLoadBalancerLeavesPortsToIngresses(t *testing.T) {
	w := startWith(t, controllers.Config{Ingress: balancing.Ingress{Controller: "example.com/i", Ports: []uint16{80, 0}}})
	w.addressed()
	ctx := t.Context()
	class := &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: "ours"}, Spec: networkingv1.IngressClassSpec{Controller: "example.com/i"}}
	if _, err := w.NetworkingV1().IngressClasses().Create(ctx, class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create := func(name string, port int32) {
		t.Helper()
		s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: port}}}}
		if _, err := w.CoreV1().Services(w.namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	create("before", 80)
	w.balances("before", "192.0.2.1", "192.0.2.2")
	ing := &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Name: "web"}, Spec: networkingv1.IngressSpec{
		IngressClassName: ptr("ours"), DefaultBackend: &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}},
	}}
	if _, err := w.NetworkingV1().Ingresses(w.namespace).Create(ctx, ing, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.CoreV1().Services(w.namespace).Delete(ctx, "before", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	create("after", 80)
	w.informed("after", "SyncLoadBalancerFailed", "port 80/TCP of the nodes is taken by the Ingresses that nodes serve")
	w.balances("after")
	if err := w.NetworkingV1().Ingresses(w.namespace).Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.balances("after", "192.0.2.1", "192.0.2.2")
}
