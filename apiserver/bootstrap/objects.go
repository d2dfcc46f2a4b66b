package bootstrap

import (
	"encoding/json"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/authn"
	"github.com/skiff-k8s/skiff/apiserver/builtin/scheduling"
	"github.com/skiff-k8s/skiff/apiserver/resource"
	"github.com/skiff-k8s/skiff/serviceaccount"
)

func namespaces() []object {
	var list []object
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		list = append(list, object{plural: "namespaces", want: &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}})
	}
	return list
}

func priorityClasses() []object {
	class := func(name, description string) object {
		return object{group: schedulingv1.GroupName, plural: "priorityclasses", want: &schedulingv1.PriorityClass{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Value: scheduling.System[name], Description: description,
		}}
	}
	return []object{
		class("system-node-critical",
			"Used for system critical pods that must not be moved from their current node."),
		class("system-cluster-critical",
			"Used for system critical pods that must run in the cluster, but can be moved to another node if necessary."),
	}
}

// kubernetesService is the name of the Service by which pods reach the API, and
// of its endpoints.
const kubernetesService = "kubernetes"

// endpointObjects are the Service and, unless there are none, the servers behind it.
func (c Config) endpointObjects(servers []string) []object {
	list := []object{{plural: "services", want: c.service()}, c.serviceRange()}
	if len(servers) == 0 {
		return list
	}
	endpoints, slice := c.endpoints(servers), c.endpointSlice(servers)
	// The ports are those of the server that came first: with several, all have the same.
	alone := len(servers) == 1
	return append(list,
		object{plural: "endpoints", want: endpoints, repair: func(have resource.Object) bool {
			e := have.(*corev1.Endpoints)
			want := endpoints.DeepCopy().Subsets
			if len(e.Subsets) == 1 && !alone {
				want[0].Ports = e.Subsets[0].Ports
			}
			if equality.Semantic.DeepEqual(e.Subsets, want) {
				return false
			}
			e.Subsets = want
			return true
		}},
		object{group: discoveryv1.GroupName, plural: "endpointslices", want: slice, repair: func(have resource.Object) bool {
			s := have.(*discoveryv1.EndpointSlice)
			ports := slice.Ports
			if len(s.Ports) > 0 && !alone {
				ports = s.Ports
			}
			if equality.Semantic.DeepEqual(s.Endpoints, slice.Endpoints) && equality.Semantic.DeepEqual(s.Ports, ports) {
				return false
			}
			s.Endpoints, s.Ports = slice.DeepCopy().Endpoints, ports
			return true
		}})
}

// serviceRange is the object that tells the ranges of service addresses. Its
// status, which no create can set, is set by the repair that follows. A cluster
// that is given a second family keeps its object.
func (c Config) serviceRange() object {
	want := &networkingv1.ServiceCIDR{
		ObjectMeta: metav1.ObjectMeta{Name: kubernetesService},
		Spec:       networkingv1.ServiceCIDRSpec{CIDRs: c.ServiceCIDRs.Strings()},
	}
	return object{group: networkingv1.GroupName, plural: "servicecidrs", want: want, repair: func(have resource.Object) bool {
		r := have.(*networkingv1.ServiceCIDR)
		if is := r.Spec.CIDRs; len(is) == 1 && len(want.Spec.CIDRs) == 2 && is[0] == want.Spec.CIDRs[0] {
			r.Spec.CIDRs = slices.Clone(want.Spec.CIDRs)
			return true
		}
		// What has been decided about it stands, and one that is being deleted is
		// the controller's; another range of that name is not this server's.
		if meta.FindStatusCondition(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady) != nil ||
			r.DeletionTimestamp != nil || !slices.Equal(r.Spec.CIDRs, want.Spec.CIDRs) {
			return false
		}
		return meta.SetStatusCondition(&r.Status.Conditions, metav1.Condition{
			Type: networkingv1.ServiceCIDRConditionReady, Status: metav1.ConditionTrue, Message: "Kubernetes default Service CIDR is ready",
		})
	}}
}

func (c Config) service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{"component": "apiserver", "provider": "kubernetes"},
		},
		Spec: corev1.ServiceSpec{
			ClusterIP: c.ServiceIP.String(),
			Ports: []corev1.ServicePort{{
				Name: "https", Port: 443, Protocol: corev1.ProtocolTCP,
				TargetPort: intstr.FromInt32(int32(c.Advertise.Port())),
			}},
			SessionAffinity: corev1.ServiceAffinityNone,
			Type:            corev1.ServiceTypeClusterIP,
			IPFamilyPolicy:  ptr.To(corev1.IPFamilyPolicySingleStack),
		},
	}
}

// endpoints are mirrored to no slice: this package makes the slice as well.
func (c Config) endpoints(servers []string) *corev1.Endpoints {
	var addresses []corev1.EndpointAddress
	for _, ip := range servers {
		addresses = append(addresses, corev1.EndpointAddress{IP: ip})
	}
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelSkipMirror: "true"},
		},
		Subsets: []corev1.EndpointSubset{{
			Addresses: addresses,
			Ports:     []corev1.EndpointPort{{Name: "https", Port: int32(c.Advertise.Port()), Protocol: corev1.ProtocolTCP}},
		}},
	}
}

func (c Config) endpointSlice(servers []string) *discoveryv1.EndpointSlice {
	var endpoints []discoveryv1.Endpoint
	for _, ip := range servers {
		endpoints = append(endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(true)}})
	}
	family := discoveryv1.AddressTypeIPv4
	if c.Advertise.Addr().Is6() {
		family = discoveryv1.AddressTypeIPv6
	}
	return &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Name: kubernetesService, Namespace: metav1.NamespaceDefault,
			Labels: map[string]string{discoveryv1.LabelServiceName: kubernetesService},
		},
		AddressType: family,
		Endpoints:   endpoints,
		Ports: []discoveryv1.EndpointPort{{
			Name: ptr.To("https"), Port: ptr.To(int32(c.Advertise.Port())), Protocol: ptr.To(corev1.ProtocolTCP),
		}},
	}
}

// trust is the ConfigMap from which extension API servers learn whose client
// certificates and whose forwarded identities they may believe.
func (c Config) trust() []object {
	data := make(map[string]string)
	if c.ClientCA != nil {
		data["client-ca-file"] = string(c.ClientCA())
	}
	if c.FrontProxyCA != nil {
		data["requestheader-client-ca-file"] = string(c.FrontProxyCA())
		data["requestheader-allowed-names"] = jsonList(c.FrontProxyNames...)
		data["requestheader-extra-headers-prefix"] = jsonList(authn.FrontProxyExtraPrefix)
		data["requestheader-group-headers"] = jsonList(authn.FrontProxyGroup)
		data["requestheader-uid-headers"] = jsonList(authn.FrontProxyUID)
		data["requestheader-username-headers"] = jsonList(authn.FrontProxyUser)
	}
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "extension-apiserver-authentication", Namespace: metav1.NamespaceSystem},
		Data:       data,
	}
	return []object{{plural: "configmaps", want: want, repair: func(have resource.Object) bool {
		m := have.(*corev1.ConfigMap)
		if maps.Equal(m.Data, data) {
			return false
		}
		m.Data = maps.Clone(data)
		return true
	}}}
}

// tracking is the ConfigMap that says since when the use of legacy tokens is
// noted: the cleaner of those that nobody uses waits for long enough.
func tracking(now time.Time) object {
	since := func() map[string]string {
		return map[string]string{serviceaccount.TrackedSinceKey: serviceaccount.Date(now)}
	}
	want := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: serviceaccount.TrackingConfigMap, Namespace: metav1.NamespaceSystem},
		Data:       since(),
	}
	return object{plural: "configmaps", want: want, repair: func(have resource.Object) bool {
		m := have.(*corev1.ConfigMap)
		if _, err := serviceaccount.ParseDate(m.Data[serviceaccount.TrackedSinceKey]); err == nil {
			return false
		}
		if m.Data == nil {
			m.Data = map[string]string{}
		}
		maps.Copy(m.Data, since())
		return true
	}}
}

func jsonList(values ...string) string {
	text, err := json.Marshal(slices.Concat([]string{}, values))
	if err != nil {
		panic(err) // strings always encode
	}
	return string(text)
}
