package plugin

import (
	"cmp"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"
)

// Storage reads the objects that claims refer to, and says NotFound as the API does.
type Storage struct {
	Claim   func(namespace, name string) (*corev1.PersistentVolumeClaim, error)
	Volume  func(name string) (*corev1.PersistentVolume, error)
	Volumes func() ([]*corev1.PersistentVolume, error)
	Class   func(name string) (*storagev1.StorageClass, error)
}

// Claims are the claims of a pod that something can be done about.
type Claims struct {
	bound []*corev1.PersistentVolumeClaim
	// waiting are bound only once it is known where the pod goes.
	waiting []*corev1.PersistentVolumeClaim
}

// Binding is a claim and the volume it should get; without one, a volume is to
// be made for it.
type Binding struct {
	Claim  *corev1.PersistentVolumeClaim
	Volume *corev1.PersistentVolume
}

// claims keeps pods where their volumes can be reached.
func claims(pod *Pod, s *Snapshot) Check {
	found, why := ClaimsOf(pod, s.Storage)
	switch {
	case why != "":
		return Check{Never: why}
	case len(found.bound)+len(found.waiting) == 0:
		return Check{}
	}
	taken := sync.OnceValue(func() bool { return found.taken(pod, s) }) // by whatever node
	storage := s.Storage
	storage.Volumes = sync.OnceValues(storage.Volumes)
	return Check{Filter: func(n *Node) *Reason {
		if taken() {
			return claimTaken
		}
		_, reason := found.Bindings(n, storage)
		return reason
	}}
}

var claimTaken = because("node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")

// ClaimsOf lists the claims of a pod, or says why it can run nowhere yet.
func ClaimsOf(pod *Pod, storage Storage) (found Claims, why string) {
	unbound := false
	for i := range pod.Spec.Volumes {
		claim, err := claimOf(pod.Pod, &pod.Spec.Volumes[i], storage)
		switch {
		case err != nil:
			return Claims{}, err.Error()
		case claim == nil:
		case isBound(claim):
			found.bound = append(found.bound, claim)
		case claim.Spec.VolumeName == "" && waitsForPod(claim, storage):
			found.waiting = append(found.waiting, claim)
		default:
			unbound = true
		}
	}
	if unbound {
		return Claims{}, "pod has unbound immediate PersistentVolumeClaims"
	}
	// The small ones first, so that they do not take the volumes the large ones need.
	slices.SortStableFunc(found.waiting, func(a, b *corev1.PersistentVolumeClaim) int {
		return a.Spec.Resources.Requests.Storage().Cmp(*b.Spec.Resources.Requests.Storage())
	})
	return found, ""
}

// claimOf is the claim that a volume of pod stands for, or nil.
func claimOf(pod *corev1.Pod, v *corev1.Volume, storage Storage) (*corev1.PersistentVolumeClaim, error) {
	var name string
	switch {
	case v.PersistentVolumeClaim != nil:
		name = v.PersistentVolumeClaim.ClaimName
	case v.Ephemeral != nil:
		name = ephemeral.VolumeClaimName(pod, v)
	default:
		return nil, nil
	}
	claim, err := storage.Claim(pod.Namespace, name)
	switch {
	case v.Ephemeral != nil && apierrors.IsNotFound(err):
		return nil, fmt.Errorf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", name)
	case err != nil:
		return nil, err
	case claim.Status.Phase == corev1.ClaimLost:
		return nil, fmt.Errorf("persistentvolumeclaim %q bound to non-existent persistentvolume %q", name, claim.Spec.VolumeName)
	case claim.DeletionTimestamp != nil:
		return nil, fmt.Errorf("persistentvolumeclaim %q is being deleted", name)
	case v.Ephemeral != nil:
		return claim, ephemeral.VolumeIsForPod(pod, claim)
	}
	return claim, nil
}

// isBound reports whether claim and volume agree that they belong together: the
// phase says so, or, before it does, the note of the controller that binds.
func isBound(claim *corev1.PersistentVolumeClaim) bool {
	_, noted := claim.Annotations[volume.AnnBindCompleted]
	return claim.Spec.VolumeName != "" && (noted || claim.Status.Phase == corev1.ClaimBound)
}

// waitsForPod reports whether the class of a claim leaves it unbound until a pod
// needs it.
func waitsForPod(claim *corev1.PersistentVolumeClaim, storage Storage) bool {
	class, err := storage.Class(volume.GetPersistentVolumeClaimClass(claim))
	return err == nil && class.VolumeBindingMode != nil && *class.VolumeBindingMode == storagev1.VolumeBindingWaitForFirstConsumer
}

// taken reports whether another pod uses a claim that only one pod may use.
func (c Claims) taken(pod *Pod, s *Snapshot) bool {
	for _, claim := range slices.Concat(c.bound, c.waiting) {
		if !slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) {
			continue
		}
		for _, n := range s.Nodes {
			if slices.ContainsFunc(n.Pods, func(other *Pod) bool { return other.UID != pod.UID && uses(other.Pod, claim) }) {
				return true
			}
		}
	}
	return false
}

func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	return pod.Namespace == claim.Namespace && slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim.Name
	})
}

// Bindings finds a volume for each waiting claim that is, or can be made, where n
// is. The reason says why the claims keep the pod off n.
func (c Claims) Bindings(n *Node, storage Storage) ([]Binding, *Reason) {
	var reason Reason
	refuse := func(text string) {
		if !slices.Contains(reason.Texts, text) {
			reason = Reason{Texts: append(reason.Texts, text), Final: true}
		}
	}
	for _, claim := range c.bound {
		pv, err := storage.Volume(claim.Spec.VolumeName)
		switch {
		case err != nil:
			refuse("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)")
		case volume.CheckNodeAffinity(pv, n.Labels) != nil:
			refuse("node(s) didn't match PersistentVolume's node affinity")
		}
	}
	chosen := make(map[string]*corev1.PersistentVolume)
	var bindings []Binding
	for _, claim := range c.waiting {
		binding, ok := bindingFor(claim, n, storage, chosen)
		if !ok {
			refuse("node(s) didn't find available persistent volumes to bind")
			continue
		}
		bindings = append(bindings, binding)
	}
	if len(reason.Texts) > 0 {
		return nil, &reason
	}
	return bindings, nil
}

// bindingFor finds a volume for one claim that is none of those chosen, and adds
// it to them, or reports whether one can be made.
func bindingFor(claim *corev1.PersistentVolumeClaim, n *Node, storage Storage, chosen map[string]*corev1.PersistentVolume) (Binding, bool) {
	selected := claim.Annotations[volume.AnnSelectedNode]
	if selected != "" { // a volume is being made for it
		return Binding{Claim: claim}, selected == n.Name
	}
	volumes, err := storage.Volumes()
	if err != nil {
		return Binding{}, false
	}
	pv, err := volume.FindMatchingVolume(claim, volumes, n.Node, chosen, true, true)
	if err != nil {
		return Binding{}, false
	}
	if pv != nil {
		chosen[pv.Name] = pv
		return Binding{claim, pv}, true
	}
	class, err := storage.Class(volume.GetPersistentVolumeClaimClass(claim))
	return Binding{Claim: claim}, err == nil && makesVolumes(class) && reaches(class, n)
}

func makesVolumes(class *storagev1.StorageClass) bool {
	return cmp.Or(class.Provisioner, volume.NotSupportedProvisioner) != volume.NotSupportedProvisioner
}

// reaches reports whether a class makes volumes where n is.
func reaches(class *storagev1.StorageClass, n *Node) bool {
	return len(class.AllowedTopologies) == 0 || slices.ContainsFunc(class.AllowedTopologies, func(term corev1.TopologySelectorTerm) bool {
		return !slices.ContainsFunc(term.MatchLabelExpressions, func(r corev1.TopologySelectorLabelRequirement) bool {
			value, ok := n.Labels[r.Key]
			return !ok || !slices.Contains(r.Values, value)
		})
	})
}
