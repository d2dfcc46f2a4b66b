// Package dra prepares the devices of pods (KEP-4381): drivers register by a socket, are told of the claims of a pod
// before it starts and after it has ended, and name the devices by which the runtime knows them (CDI).
package dra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
)

// Config says what a Manager works with; all is required.
type Config struct {
	Client kubernetes.Interface
	// RootDir has the folder of the drivers' sockets, plugins_registry, and what was prepared.
	RootDir, NodeName string
	// Changed is called when drivers have come or gone: pods may wait for them.
	Changed func()
}

// Manager prepares devices.
type Manager struct {
	cfg     Config
	state   *state
	drivers *drivers

	absent map[string]time.Time // drivers that have slices and are not registered, since when
}

// New reads what an earlier run prepared.
func New(cfg Config) (*Manager, error) {
	registry := filepath.Join(cfg.RootDir, "plugins_registry")
	for _, dir := range []string{registry, filepath.Join(cfg.RootDir, "plugins")} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return nil, fmt.Errorf("make the folder of drivers: %w", err)
		}
	}
	s, err := openState(filepath.Join(cfg.RootDir, "dra_manager_state"))
	if err != nil {
		return nil, err
	}
	return &Manager{cfg: cfg, state: s, drivers: &drivers{folder: registry, changed: cfg.Changed, bySocket: make(map[string]*driver)}}, nil
}

// Run follows drivers until ctx ends.
func (m *Manager) Run(ctx context.Context) error { return m.drivers.run(ctx) }

// Prepare has the devices of a pod prepared. It does nothing for those that are.
func (m *Manager) Prepare(ctx context.Context, pod *v1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		name, made, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err == nil && name != nil {
			err = m.prepareClaim(ctx, pod, *name, made)
		}
		if err != nil {
			return fmt.Errorf("prepare dynamic resources: %w", err)
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		if err := m.prepareClaim(ctx, pod, s.ResourceClaimName, true); err != nil {
			return fmt.Errorf("prepare dynamic resources: %w", err)
		}
	}
	return nil
}

func (m *Manager) prepareClaim(ctx context.Context, pod *v1.Pod, name string, made bool) error {
	key := types.NamespacedName{Namespace: pod.Namespace, Name: name}
	defer m.state.lock(key)()
	known, ok := m.state.get(key)
	if ok && known.Done && slices.Contains(known.Pods, pod.UID) {
		return nil
	}
	claim, err := m.cfg.Client.ResourceV1().ResourceClaims(pod.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("fetch ResourceClaim %s: %w", name, err)
	}
	if err := usable(pod, claim, made); err != nil {
		return err
	}
	if ok && known.UID != claim.UID {
		return fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", name, known.UID)
	}
	if !ok {
		known = prepared{Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID, Drivers: driversOf(claim)}
	}
	if !slices.Contains(known.Pods, pod.UID) {
		known.Pods = append(slices.Clip(known.Pods), pod.UID)
	}
	// Whatever becomes of the calls, what they may have prepared is known.
	if err := m.state.put(known); err != nil || known.Done {
		return err
	}
	known.Devices = nil
	for _, driver := range known.Drivers {
		devices, err := m.prepare(ctx, driver, known)
		if err != nil {
			return err
		}
		known.Devices = append(known.Devices, devices...)
	}
	known.Done = true
	return m.state.put(known)
}

// usable says why a pod may not use a claim.
func usable(pod *v1.Pod, claim *resourcev1.ResourceClaim, made bool) error {
	if made {
		if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
			return err
		}
	}
	switch {
	case !resourceclaim.IsReservedForPod(pod, claim, false):
		return fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", pod.Name, pod.UID, claim.Name, claim.UID)
	case claim.Status.Allocation == nil:
		return fmt.Errorf("ResourceClaim %s: not allocated", claim.Name)
	}
	return nil
}

func driversOf(claim *resourcev1.ResourceClaim) []string {
	var names []string
	for _, r := range claim.Status.Allocation.Devices.Results {
		if !slices.Contains(names, r.Driver) {
			names = append(names, r.Driver)
		}
	}
	return names
}

func (m *Manager) prepare(ctx context.Context, driver string, c prepared) ([]device, error) {
	client, err := m.drivers.client(driver)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := client.NodePrepareResources(ctx, &drav1.NodePrepareResourcesRequest{Claims: []*drav1.Claim{c.reference()}})
	if err != nil {
		return nil, fmt.Errorf("NodePrepareResources: %w", err)
	}
	result := response.Claims[string(c.UID)]
	switch {
	case result == nil:
		return nil, errors.New("NodePrepareResources skipped 1 ResourceClaims")
	case result.Error != "":
		return nil, fmt.Errorf("NodePrepareResources failed for ResourceClaim %s: %s", c.Name, result.Error)
	}
	devices := make([]device, 0, len(result.Devices))
	for _, d := range result.Devices {
		devices = append(devices, device{Requests: d.RequestNames, CDI: d.CdiDeviceIds})
	}
	return devices, nil
}

func (c prepared) reference() *drav1.Claim {
	return &drav1.Claim{Namespace: c.Namespace, Uid: string(c.UID), Name: c.Name}
}

// Unprepare has the devices of a pod that is over unprepared, except those that other pods use.
func (m *Manager) Unprepare(ctx context.Context, pod types.UID) error {
	for _, c := range m.state.of(pod) {
		if err := m.unprepareClaim(ctx, types.NamespacedName{Namespace: c.Namespace, Name: c.Name}, pod); err != nil {
			return fmt.Errorf("unprepare dynamic resources: %w", err)
		}
	}
	return nil
}

func (m *Manager) unprepareClaim(ctx context.Context, key types.NamespacedName, pod types.UID) error {
	defer m.state.lock(key)()
	c, ok := m.state.get(key)
	if !ok || !slices.Contains(c.Pods, pod) {
		return nil
	}
	if len(c.Pods) > 1 {
		c.Pods = slices.DeleteFunc(slices.Clone(c.Pods), func(uid types.UID) bool { return uid == pod })
		return m.state.put(c)
	}
	for _, driver := range c.Drivers {
		if err := m.unprepare(ctx, driver, c); err != nil {
			return err
		}
	}
	return m.state.drop(key)
}

func (m *Manager) unprepare(ctx context.Context, driver string, c prepared) error {
	client, err := m.drivers.client(driver)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	response, err := client.NodeUnprepareResources(ctx, &drav1.NodeUnprepareResourcesRequest{Claims: []*drav1.Claim{c.reference()}})
	if err != nil {
		return fmt.Errorf("NodeUnprepareResources: %w", err)
	}
	result := response.Claims[string(c.UID)]
	switch {
	case result == nil:
		return errors.New("NodeUnprepareResources skipped 1 ResourceClaims")
	case result.Error != "":
		return fmt.Errorf("NodeUnprepareResources failed for ResourceClaim %s: %s", c.Name, result.Error)
	}
	return nil
}

// use is a claim, or one request of it, that a container uses.
type use struct{ claim, request string }

// uses are those of a container: what it names itself, and what the scheduler got for its extended resources.
func uses(pod *v1.Pod, container *v1.Container) ([]use, error) {
	var list []use
	for _, named := range container.Resources.Claims {
		i := slices.IndexFunc(pod.Spec.ResourceClaims, func(c v1.PodResourceClaim) bool { return c.Name == named.Name })
		if i < 0 {
			continue
		}
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name != nil {
			list = append(list, use{*name, named.Request})
		}
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		for _, mapping := range s.RequestMappings {
			if mapping.ContainerName == container.Name {
				list = append(list, use{s.ResourceClaimName, mapping.RequestName})
			}
		}
	}
	return list, nil
}

// IDs are the names by which the runtime knows the devices of a container.
func (m *Manager) IDs(pod *v1.Pod, container *v1.Container) ([]string, error) {
	used, err := uses(pod, container)
	if err != nil {
		return nil, err
	}
	var ids []string
	for _, use := range used {
		c, ok := m.state.get(types.NamespacedName{Namespace: pod.Namespace, Name: use.claim})
		if !ok || !c.Done || !slices.Contains(c.Pods, pod.UID) {
			return nil, fmt.Errorf("unable to get information for ResourceClaim %s", use.claim)
		}
		for _, d := range c.Devices {
			if use.request != "" && len(d.Requests) > 0 && !slices.Contains(d.Requests, use.request) {
				continue
			}
			for _, id := range d.CDI {
				if !slices.Contains(ids, id) {
					ids = append(ids, id)
				}
			}
		}
	}
	return ids, nil
}

// Pods are those for which something is prepared.
func (m *Manager) Pods() ([]types.UID, error) {
	var uids []types.UID
	for _, c := range m.state.of("") {
		uids = append(uids, c.Pods...)
	}
	return uids, nil
}

// Sweep deletes the slices of drivers of this node that have not been there for a while: their devices cannot be
// prepared. It runs until ctx ends.
func (m *Manager) Sweep(ctx context.Context) error {
	const patience = 30 * time.Second
	for {
		if err := m.sweep(ctx, patience, time.Now()); err != nil && ctx.Err() == nil && !apierrors.IsNotFound(err) {
			slog.Warn("slices of absent drivers not deleted", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(patience):
		}
	}
}

func (m *Manager) sweep(ctx context.Context, patience time.Duration, now time.Time) error {
	mine := fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorNodeName, m.cfg.NodeName)
	list, err := m.cfg.Client.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{FieldSelector: mine.String()})
	if err != nil {
		return err
	}
	registered, absent := m.drivers.names(), make(map[string]time.Time)
	for _, s := range list.Items {
		if slices.Contains(registered, s.Spec.Driver) {
			continue
		}
		since, ok := m.absent[s.Spec.Driver]
		if !ok {
			since = now
		}
		absent[s.Spec.Driver] = since
	}
	m.absent = absent
	for driver, since := range absent {
		if now.Sub(since) < patience {
			continue
		}
		theirs := fields.AndSelectors(mine, fields.OneTermEqualSelector(resourcev1.ResourceSliceSelectorDriver, driver))
		if err := m.cfg.Client.ResourceV1().ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: theirs.String()}); err != nil {
			return err
		}
	}
	return nil
}
