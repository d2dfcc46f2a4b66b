package main

import (
	"bytes"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestWhereServicesAre(t *testing.T) {
	ready := corev1.Node{Status: corev1.NodeStatus{
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: "n"}, {Type: corev1.NodeInternalIP, Address: "10.0.0.2"}},
	}}
	down := *ready.DeepCopy()
	down.Status.Conditions[0].Status, down.Status.Addresses[1].Address = corev1.ConditionFalse, "10.0.0.1"
	nodes := []corev1.Node{down, ready}
	behind := []discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{{Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}}}}}
	unready := []discoveryv1.EndpointSlice{{Endpoints: []discoveryv1.Endpoint{{Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}}}}}
	for name, test := range map[string]struct {
		spec      corev1.ServiceSpec
		ingress   []corev1.LoadBalancerIngress
		endpoints []discoveryv1.EndpointSlice
		want, err string
	}{
		"node port":      {spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}}}, endpoints: behind, want: "http://10.0.0.2:30080\n"},
		"https by name":  {spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Name: "https", Port: 8443, NodePort: 30443}}}, endpoints: behind, want: "https://10.0.0.2:30443\n"},
		"several":        {spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 53, NodePort: 30053, Protocol: corev1.ProtocolUDP}, {Port: 443, NodePort: 30443}}}, endpoints: behind, want: "udp://10.0.0.2:30053\nhttps://10.0.0.2:30443\n"},
		"load balancer":  {spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}}}, ingress: []corev1.LoadBalancerIngress{{IP: "fd00::1"}, {Hostname: "lb"}}, endpoints: behind, want: "http://[fd00::1]:80\nhttp://lb:80\n"},
		"inside alone":   {spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}, endpoints: behind, err: "service ns/web has no node port; try: kubectl port-forward --namespace ns service/web 8080:80"},
		"nothing behind": {spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80, NodePort: 30080}}}, endpoints: unready, err: "service ns/web has no pod that is ready"},
		"elsewhere":      {spec: corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "x.org"}, err: "service ns/web stands for x.org, which is not of this cluster"},
	} {
		t.Run(name, func(t *testing.T) {
			service := &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: test.spec,
				Status: corev1.ServiceStatus{LoadBalancer: corev1.LoadBalancerStatus{Ingress: test.ingress}},
			}
			places, err := placesOf(service, test.endpoints, nodes)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("got %v, want %q", err, test.err)
				}
				return
			}
			var out bytes.Buffer
			if err == nil {
				err = writePlaces(&out, places, true)
			}
			if err != nil || out.String() != test.want {
				t.Errorf("got %q (%v), want %q", out.String(), err, test.want)
			}
			out.Reset()
			if err := writePlaces(&out, places, false); err != nil || !strings.HasPrefix(out.String(), "NAMESPACE") || strings.Count(out.String(), "\n") != len(places)+1 {
				t.Errorf("the table is\n%s (%v)", out.String(), err)
			}
		})
	}
}
