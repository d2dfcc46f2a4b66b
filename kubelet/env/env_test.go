package env

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestExpand(t *testing.T) {
	lookup := Lookup(map[string]string{"A": "one", "B": "$(A)", "EMPTY": ""})
	for input, want := range map[string]string{
		"":               "",
		"plain":          "plain",
		"$(A)":           "one",
		"x$(A)y$(A)":     "xoneyone",
		"$(B)":           "$(A)",
		"$(EMPTY)":       "",
		"$(MISSING)":     "$(MISSING)",
		"$$(A)":          "$(A)",
		"$$$(A)":         "$one",
		"$$":             "$",
		"$":              "$",
		"$A":             "$A",
		"$(A":            "$(A",
		"$$(dig +short)": "$(dig +short)",
		"a$":             "a$",
		"$()":            "$()",
		"${A}":           "${A}",
	} {
		if got := Expand(input, lookup); got != want {
			t.Errorf("Expand(%q) = %q, want %q", input, got, want)
		}
	}
}

// objects holds one namespace's config maps and secrets.
type objects struct {
	configMaps map[string]map[string]string
	secrets    map[string]map[string][]byte
}

func (o objects) ConfigMap(_ context.Context, _ *v1.Pod, name string) (*v1.ConfigMap, error) {
	if data, found := o.configMaps[name]; found {
		return &v1.ConfigMap{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("configmaps"), name)
}

func (o objects) Secret(_ context.Context, _ *v1.Pod, name string) (*v1.Secret, error) {
	if data, found := o.secrets[name]; found {
		return &v1.Secret{Data: data}, nil
	}
	return nil, apierrors.NewNotFound(v1.Resource("secrets"), name)
}

func TestMake(t *testing.T) {
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "p", Namespace: "ns", UID: "u",
			Labels: map[string]string{"app": "web"}, Annotations: map[string]string{"x/y": "z"},
		},
		Spec: v1.PodSpec{NodeName: "node", ServiceAccountName: "sa"},
	}
	services := []*v1.Service{
		{ObjectMeta: metav1.ObjectMeta{Name: "kubernetes", Namespace: "default"},
			Spec: v1.ServiceSpec{ClusterIP: "10.96.0.1", Ports: []v1.ServicePort{{Name: "https", Port: 443, Protocol: v1.ProtocolTCP}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "headless", Namespace: "ns"},
			Spec: v1.ServiceSpec{ClusterIP: "None", Ports: []v1.ServicePort{{Port: 1}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "other", Namespace: "elsewhere"},
			Spec: v1.ServiceSpec{ClusterIP: "10.96.0.2", Ports: []v1.ServicePort{{Port: 1}}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "my-svc", Namespace: "ns"},
			Spec: v1.ServiceSpec{ClusterIP: "10.96.0.3", Ports: []v1.ServicePort{{Port: 53, Protocol: v1.ProtocolUDP}}}},
	}
	master := map[string]string{
		"KUBERNETES_SERVICE_HOST": "10.96.0.1", "KUBERNETES_SERVICE_PORT": "443", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
		"KUBERNETES_PORT": "tcp://10.96.0.1:443", "KUBERNETES_PORT_443_TCP": "tcp://10.96.0.1:443",
		"KUBERNETES_PORT_443_TCP_PROTO": "tcp", "KUBERNETES_PORT_443_TCP_PORT": "443", "KUBERNETES_PORT_443_TCP_ADDR": "10.96.0.1",
	}
	field := func(path string) *v1.EnvVarSource {
		return &v1.EnvVarSource{FieldRef: &v1.ObjectFieldSelector{FieldPath: path}}
	}
	res := func(name, divisor string) *v1.EnvVarSource {
		return &v1.EnvVarSource{ResourceFieldRef: &v1.ResourceFieldSelector{Resource: name, Divisor: resource.MustParse(divisor)}}
	}

	for _, test := range []struct {
		name      string
		container v1.Container
		links     bool
		want      map[string]string // beside master
		err       string
	}{
		{name: "values refer to earlier ones and to services", container: v1.Container{Env: []v1.EnvVar{
			{Name: "A", Value: "a"}, {Name: "B", Value: "$(A)-$(LATER)-$(KUBERNETES_SERVICE_PORT)"}, {Name: "LATER", Value: "$$(A)"}, {Name: "E"},
		}}, want: map[string]string{"A": "a", "B": "a-$(LATER)-443", "LATER": "$(A)", "E": ""}},
		{name: "fields", container: v1.Container{Env: []v1.EnvVar{
			{Name: "NAME", ValueFrom: field("metadata.name")}, {Name: "NS", ValueFrom: field("metadata.namespace")},
			{Name: "ID", ValueFrom: field("metadata.uid")}, {Name: "L", ValueFrom: field("metadata.labels['app']")},
			{Name: "AN", ValueFrom: field("metadata.annotations['x/y']")}, {Name: "IP", ValueFrom: field("status.podIP")},
			{Name: "HOST", ValueFrom: field("status.hostIP")}, {Name: "SA", ValueFrom: field("spec.serviceAccountName")},
			{Name: "NODE", ValueFrom: field("spec.nodeName")},
		}}, want: map[string]string{"NAME": "p", "NS": "ns", "ID": "u", "L": "web", "AN": "z", "IP": "10.1.1.1", "HOST": "192.0.2.1", "SA": "sa", "NODE": "node"}},
		{name: "resources round up and default to the node", container: v1.Container{
			Resources: v1.ResourceRequirements{Limits: v1.ResourceList{"cpu": resource.MustParse("1250m")}},
			Env: []v1.EnvVar{
				{Name: "CPU", ValueFrom: res("limits.cpu", "1")}, {Name: "MILLI", ValueFrom: res("limits.cpu", "1m")},
				{Name: "MEM", ValueFrom: res("limits.memory", "1Mi")}, {Name: "REQ", ValueFrom: res("requests.cpu", "1")},
			}}, want: map[string]string{"CPU": "2", "MILLI": "1250", "MEM": "512", "REQ": "0"}},
		{name: "sources", container: v1.Container{
			EnvFrom: []v1.EnvFromSource{
				{Prefix: "p_", ConfigMapRef: &v1.ConfigMapEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}},
				{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "s"}}},
				{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "missing"}, Optional: ptr.To(true)}},
			},
			Env: []v1.EnvVar{
				{Name: "K", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}, Key: "#@!data-1"}}},
				{Name: "GONE", ValueFrom: &v1.EnvVarSource{SecretKeyRef: &v1.SecretKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "s"}, Key: "no", Optional: ptr.To(true)}}},
				{Name: "token", Value: "own"},
			},
		}, want: map[string]string{"p_#@!data-1": "v", "token": "own", "K": "v"}},
		{name: "service links", links: true, container: v1.Container{}, want: map[string]string{
			"MY_SVC_SERVICE_HOST": "10.96.0.3", "MY_SVC_SERVICE_PORT": "53", "MY_SVC_PORT": "udp://10.96.0.3:53",
			"MY_SVC_PORT_53_UDP": "udp://10.96.0.3:53", "MY_SVC_PORT_53_UDP_PROTO": "udp", "MY_SVC_PORT_53_UDP_PORT": "53", "MY_SVC_PORT_53_UDP_ADDR": "10.96.0.3",
		}},
		{name: "missing key", container: v1.Container{Env: []v1.EnvVar{
			{Name: "K", ValueFrom: &v1.EnvVarSource{ConfigMapKeyRef: &v1.ConfigMapKeySelector{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}, Key: "no"}}},
		}}, err: "couldn't find key no in ConfigMap ns/cm"},
		{name: "missing secret", container: v1.Container{EnvFrom: []v1.EnvFromSource{
			{SecretRef: &v1.SecretEnvSource{LocalObjectReference: v1.LocalObjectReference{Name: "missing"}}},
		}}, err: `secrets "missing" not found`},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := pod.DeepCopy()
			p.Spec.EnableServiceLinks = &test.links
			vars, err := Make(t.Context(), Source{
				Pod: p, Container: &test.container, PodIPs: []string{"10.1.1.1"}, HostIPs: []string{"192.0.2.1"},
				Allocatable: v1.ResourceList{"memory": resource.MustParse("512Mi")}, Services: services,
				Objects: objects{
					configMaps: map[string]map[string]string{"cm": {"#@!data-1": "v"}},
					secrets:    map[string]map[string][]byte{"s": {"token": []byte("t")}},
				},
			})
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Fatalf("got error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]string{}
			for _, m := range []map[string]string{master, test.want} {
				for k, v := range m {
					want[k] = v
				}
			}
			if diff := cmp.Diff(want, Map(vars)); diff != "" {
				t.Errorf("environment (-want +got):\n%s", diff)
			}
		})
	}
}
