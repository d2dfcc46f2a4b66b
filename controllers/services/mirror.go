package services

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/record"
	slices "k8s.io/endpointslice/util"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

const (
	mirrorManager = "endpointslicemirroring-controller.k8s.io"
	// mirroredPerSubset is the most addresses of a subset that are mirrored: as many as one slice may hold.
	mirroredPerSubset = 1000
)

// Mirror keeps EndpointSlices that say the same as the Endpoints somebody made for a Service without a selector
// (KEP-1713). It is woken by the Endpoints, the Service, and changes of its slices that are not its own.
func Mirror(d Deps) (reconcile.Controller, error) {
	services := d.Informers.Core().V1().Services()
	endpoints := d.Informers.Core().V1().Endpoints()
	all := d.Informers.Discovery().V1().EndpointSlices()
	index, err := indexByService(all.Informer())
	if err != nil {
		return reconcile.Controller{}, err
	}
	m := &mirror{
		client: d.Client, services: services.Lister(), endpoints: endpoints.Lister(), slices: index,
		tracker: slices.NewEndpointSliceTracker(),
		events:  d.Recorder("endpoint-slice-mirroring-controller"),
	}
	return reconcile.Controller{
		Name:    "EndpointSliceMirroring",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.Self(endpoints.Informer()),
			reconcile.On(services.Informer(), func(old, service *corev1.Service) []reconcile.Key {
				switch {
				case service == nil:
					return []reconcile.Key{reconcile.KeyOf(old)}
				case old != nil && (old.Spec.Selector == nil) == (service.Spec.Selector == nil):
					return nil
				}
				return []reconcile.Key{reconcile.KeyOf(service)}
			}),
			sliceSource(all.Informer(), mirrorManager, m.tracker),
		},
		Sync: m.sync,
	}, nil
}

type mirror struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    cache.Indexer
	tracker   *slices.EndpointSliceTracker
	events    record.EventRecorder
}

func (m *mirror) sync(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	existing, err := slicesBy(m.slices, key, mirrorManager)
	if err != nil {
		return 0, err
	}
	endpoints, err := m.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return 0, err
	}
	service, serviceErr := m.services.Services(key.Namespace).Get(key.Name)
	if serviceErr != nil && !apierrors.IsNotFound(serviceErr) {
		return 0, serviceErr
	}
	if err != nil || serviceErr != nil || service.Spec.Selector != nil || !mirrorable(endpoints) {
		m.tracker.DeleteService(key.Namespace, key.Name)
		return 0, m.apply(ctx, existing, nil)
	}
	if m.tracker.StaleSlices(service, existing) {
		return staleRetry, nil
	}
	wanted, invalid, skipped := mirrored(endpoints)
	if invalid > 0 {
		m.events.Eventf(endpoints, corev1.EventTypeWarning, "InvalidIPAddress", "Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid)
	}
	if skipped > 0 {
		m.events.Eventf(endpoints, corev1.EventTypeWarning, "TooManyAddressesToMirror", "A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", mirroredPerSubset, skipped)
	}
	return 0, m.apply(ctx, existing, wanted)
}

// mirrorable tells whether Endpoints are meant for a Service: not if they say they are not, or only serve as a
// lock.
func mirrorable(endpoints *corev1.Endpoints) bool {
	_, lock := endpoints.Annotations[resourcelock.LeaderElectionRecordAnnotationKey]
	return !lock && endpoints.Labels[discoveryv1.LabelSkipMirror] != "true"
}

// sliceKey tells the slices of one Endpoints apart: by address type and ports.
type sliceKey struct {
	family discoveryv1.AddressType
	ports  slices.PortMapKey
}

// mirrored makes the slices for Endpoints, one for each kind of address and set of ports.
func mirrored(endpoints *corev1.Endpoints) (wanted map[sliceKey]*discoveryv1.EndpointSlice, invalid, skipped int) {
	wanted = map[sliceKey]*discoveryv1.EndpointSlice{}
	for _, subset := range repack(endpoints.Subsets) {
		ports := slicePorts(subset.Ports)
		added := 0
		add := func(address corev1.EndpointAddress, ready bool) {
			ip, err := netip.ParseAddr(address.IP)
			switch {
			case err != nil:
				invalid++
				return
			case added >= mirroredPerSubset:
				skipped++
				return
			}
			added++
			key := sliceKey{discoveryv1.AddressTypeIPv4, slices.NewPortMapKey(ports)}
			if ip.Is6() {
				key.family = discoveryv1.AddressTypeIPv6
			}
			if wanted[key] == nil {
				wanted[key] = sliceFor(endpoints, key.family, ports)
			}
			wanted[key].Endpoints = append(wanted[key].Endpoints, endpointOf(address, ip, ready))
		}
		for _, a := range subset.Addresses {
			add(a, true)
		}
		for _, a := range subset.NotReadyAddresses {
			add(a, false)
		}
	}
	return wanted, invalid, skipped
}

func slicePorts(ports []corev1.EndpointPort) []discoveryv1.EndpointPort {
	all := []discoveryv1.EndpointPort{}
	for _, p := range ports {
		all = append(all, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return all
}

func endpointOf(address corev1.EndpointAddress, ip netip.Addr, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{
		Addresses:  []string{ip.String()},
		Conditions: discoveryv1.EndpointConditions{Ready: &ready},
		TargetRef:  address.TargetRef,
		NodeName:   address.NodeName,
	}
	if address.Hostname != "" {
		e.Hostname = &address.Hostname
	}
	return e
}

func sliceFor(endpoints *corev1.Endpoints, family discoveryv1.AddressType, ports []discoveryv1.EndpointPort) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    endpoints.Name + "-",
			Namespace:       endpoints.Namespace,
			Labels:          with(with(endpoints.Labels, discoveryv1.LabelServiceName, endpoints.Name), discoveryv1.LabelManagedBy, mirrorManager),
			Annotations:     maps.Clone(endpoints.Annotations),
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(endpoints, corev1.SchemeGroupVersion.WithKind("Endpoints"))},
		},
		AddressType: family,
		Ports:       ports,
	}
	if len(validation.NameIsDNSSubdomain(slice.GenerateName, true)) != 0 {
		slice.GenerateName = endpoints.Name
	}
	delete(slice.Annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(slice.Annotations, corev1.LastAppliedConfigAnnotation)
	return slice
}

// apply turns the existing slices into the wanted ones, reusing those with the same address type and ports.
func (m *mirror) apply(ctx context.Context, existing []*discoveryv1.EndpointSlice, wanted map[sliceKey]*discoveryv1.EndpointSlice) error {
	wanted = maps.Clone(wanted)
	var errs []error
	for _, slice := range existing {
		key := sliceKey{slice.AddressType, slices.NewPortMapKey(slice.Ports)}
		want := wanted[key]
		if want == nil {
			errs = append(errs, m.remove(ctx, slice))
			continue
		}
		delete(wanted, key)
		errs = append(errs, m.update(ctx, slice, want))
	}
	for _, want := range wanted {
		created, err := m.client.DiscoveryV1().EndpointSlices(want.Namespace).Create(ctx, want, metav1.CreateOptions{})
		switch {
		case err == nil:
			m.tracker.Update(created)
		case !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
			errs = append(errs, fmt.Errorf("create slice: %w", err))
		}
	}
	return errors.Join(errs...)
}

func (m *mirror) remove(ctx context.Context, slice *discoveryv1.EndpointSlice) error {
	err := m.client.DiscoveryV1().EndpointSlices(slice.Namespace).Delete(ctx, slice.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete slice %s: %w", slice.Name, err)
	}
	m.tracker.ExpectDeletion(slice)
	return nil
}

func (m *mirror) update(ctx context.Context, slice, want *discoveryv1.EndpointSlice) error {
	if equality.Semantic.DeepEqual(slice.Endpoints, want.Endpoints) && equality.Semantic.DeepEqual(slice.Labels, want.Labels) &&
		equality.Semantic.DeepEqual(slice.Annotations, want.Annotations) {
		return nil
	}
	updated := slice.DeepCopy()
	updated.Endpoints, updated.Labels, updated.Annotations, updated.Ports = want.Endpoints, want.Labels, want.Annotations, want.Ports
	written, err := m.client.DiscoveryV1().EndpointSlices(slice.Namespace).Update(ctx, updated, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("update slice %s: %w", slice.Name, err)
	}
	m.tracker.Update(written)
	return nil
}
