package controllers_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (w *world) serviceCIDR(name string, cidrs ...string) {
	w.t.Helper()
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	if _, err := w.NetworkingV1().ServiceCIDRs().Create(w.t.Context(), c, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// rangeIs waits until the condition Ready of a range is as wanted: "True: message" or "False reason: message".
func (w *world) rangeIs(name, want string) {
	w.t.Helper()
	w.eventually("range "+name, func() error {
		r, err := w.NetworkingV1().ServiceCIDRs().Get(w.t.Context(), name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		c := meta.FindStatusCondition(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		if c == nil {
			return fmt.Errorf("it has no condition Ready")
		}
		if got := strings.TrimSpace(string(c.Status)+" "+c.Reason) + ": " + c.Message; got != want {
			return fmt.Errorf("got %s, want %s", got, want)
		}
		if !slices.Contains(r.Finalizers, "networking.k8s.io/service-cidr-finalizer") {
			return fmt.Errorf("it has finalizers %v", r.Finalizers)
		}
		return nil
	})
}

func (w *world) service(name, ip string) error {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
	_, err := w.CoreV1().Services(w.namespace).Create(w.t.Context(), s, metav1.CreateOptions{})
	return err
}

const (
	rangeReady  = "True: Kubernetes Service CIDR is ready"
	rangeNeeded = "False Terminating: There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)

func TestServiceCIDR(t *testing.T) {
	w := start(t)
	w.rangeIs("kubernetes", rangeReady)
	w.serviceCIDR("second", "10.50.0.0/24")
	w.serviceCIDR("six", "fd00:50::/112")
	w.serviceCIDR("both", "10.60.0.0/24", "fd00:60::/112")
	w.rangeIs("second", rangeReady)
	w.rangeIs("six", rangeReady)
	w.rangeIs("both", rangeReady)
	for name, ip := range map[string]string{"a": "10.50.0.7", "b": "10.60.0.7", "c": "10.96.0.77"} {
		if err := w.service(name, ip); err != nil {
			t.Errorf("a Service with %s: %v", ip, err)
		}
		address, err := w.NetworkingV1().IPAddresses().Get(t.Context(), ip, metav1.GetOptions{})
		if err != nil || address.Spec.ParentRef == nil || address.Spec.ParentRef.Name != name {
			t.Errorf("the IPAddress of %s: got %+v, %v", ip, address, err)
		}
	}
	if err := w.service("d", "10.70.0.7"); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "the provided network does not match the current range") {
		t.Errorf("an address of no range: %v", err)
	}

	remove := func(name string) {
		t.Helper()
		if err := w.NetworkingV1().ServiceCIDRs().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	remove("second")
	w.rangeIs("second", rangeNeeded)
	if err := w.service("d", "10.50.0.8"); !apierrors.IsInvalid(err) {
		t.Errorf("an address of a range that is being deleted: %v", err)
	}
	// Both go once nothing depends on them: the one because its addresses are in another range as well, the other
	// because it has none left.
	w.serviceCIDR("larger", "10.60.0.0/16")
	w.rangeIs("larger", rangeReady)
	remove("both")
	if err := w.CoreV1().Services(w.namespace).Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	remove("six")
	w.eventually("the end of the ranges", func() error {
		left, err := w.NetworkingV1().ServiceCIDRs().List(t.Context(), metav1.ListOptions{})
		if err == nil && len(left.Items) != 2 { // kubernetes and larger
			err = fmt.Errorf("%d ranges are left, want 2", len(left.Items))
		}
		return err
	})
}
