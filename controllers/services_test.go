package controllers_test

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// slices counts the slices of a service and the endpoints in them, by who manages them.
func (w *world) slices(service, manager string) (slices, endpoints int) {
	w.t.Helper()
	list, err := w.DiscoveryV1().EndpointSlices(w.namespace).List(w.t.Context(), metav1.ListOptions{
		LabelSelector: discoveryv1.LabelServiceName + "=" + service + "," + discoveryv1.LabelManagedBy + "=" + manager,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, slice := range list.Items {
		endpoints += len(slice.Endpoints)
	}
	return len(list.Items), endpoints
}

func TestServiceHasEndpoints(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	service := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
	if _, err := w.CoreV1().Services(w.namespace).Create(ctx, service, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const manager = "endpointslice-controller.k8s.io"
	expect := func(what string, slices, endpoints, addresses int) {
		t.Helper()
		w.eventually(what, func() error {
			if s, e := w.slices("web", manager); s != slices || e != endpoints {
				return fmt.Errorf("%d endpoints in %d slices, want %d in %d", e, s, endpoints, slices)
			}
			e, err := w.CoreV1().Endpoints(w.namespace).Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			n := 0
			for _, subset := range e.Subsets {
				n += len(subset.Addresses)
			}
			if n != addresses {
				return fmt.Errorf("%d addresses in Endpoints, want %d", n, addresses)
			}
			return nil
		})
	}
	expect("an empty slice", 1, 0, 0)
	w.deployment("web", "x", 2)
	expect("two endpoints", 1, 2, 2)
	if err := w.DiscoveryV1().EndpointSlices(w.namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: discoveryv1.LabelServiceName + "=web"}); err != nil {
		t.Fatal(err)
	}
	expect("the slice made anew", 1, 2, 2)
	if err := w.CoreV1().Services(w.namespace).Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("the end of slices and Endpoints", func() error {
		if s, _ := w.slices("web", manager); s > 0 {
			return fmt.Errorf("%d slices", s)
		}
		_, err := w.CoreV1().Endpoints(w.namespace).Get(ctx, "web", metav1.GetOptions{})
		return gone(err)
	})
}

func TestEndpointsAreMirrored(t *testing.T) {
	w := start(t)
	ctx := t.Context()
	const manager = "endpointslicemirroring-controller.k8s.io"
	if _, err := w.CoreV1().Services(w.namespace).Create(ctx, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "far"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	endpoints := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "far"}, Subsets: []corev1.EndpointSubset{{
		Addresses: []corev1.EndpointAddress{{IP: "10.1.2.3"}}, Ports: []corev1.EndpointPort{{Port: 80}},
	}}}
	endpoints, err := w.CoreV1().Endpoints(w.namespace).Create(ctx, endpoints, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	expect := func(slices, count int) {
		t.Helper()
		w.eventually("mirrored endpoints", func() error {
			if s, e := w.slices("far", manager); s != slices || e != count {
				return fmt.Errorf("%d endpoints in %d slices, want %d in %d", e, s, count, slices)
			}
			return nil
		})
	}
	expect(1, 1)
	endpoints.Subsets[0].Addresses = append(endpoints.Subsets[0].Addresses, corev1.EndpointAddress{IP: "10.1.2.4"})
	if _, err := w.CoreV1().Endpoints(w.namespace).Update(ctx, endpoints, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(1, 2)
	if err := w.CoreV1().Endpoints(w.namespace).Delete(ctx, "far", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	expect(0, 0)
}
