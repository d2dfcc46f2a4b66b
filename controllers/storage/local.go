package storage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// LocalProvisionerName is what a StorageClass names as its provisioner for volumes that are directories of nodes.
const LocalProvisionerName = "skiff.dev/local"

// provisionedFinalizer keeps a volume that is to be wiped until it is. The name is that of all external provisioners.
const provisionedFinalizer = "external-provisioner.volume.kubernetes.io/finalizer"

// NodeVolumes makes and wipes directories of nodes, by the names of PersistentVolumes. Both may be repeated.
type NodeVolumes interface {
	// Make returns where on the node the directory is. ErrNoSpace is the cause when the node has no room.
	Make(ctx context.Context, node, name string) (path string, err error)
	// Wipe removes the directory and all that is in it.
	Wipe(ctx context.Context, node, name string) error
}

// ErrNoSpace is the cause when a node has no room for a volume.
var ErrNoSpace = errors.New("no space left on the node")

// LocalProvisioner makes volumes on the node that the scheduler has chosen for a claim, enlarges them when the claim
// asks for more, and wipes those that are released, unless they are to be retained. The scheduler is asked for another
// node when one is gone, not ready, or full. What is on a node that does not answer is wiped when it comes back.
//
// It is woken by claims of its classes, by its volumes, and by nodes that come or get ready.
func LocalProvisioner(d Deps, directories NodeVolumes) reconcile.Controller {
	claims := d.Informers.Core().V1().PersistentVolumeClaims()
	volumes := d.Informers.Core().V1().PersistentVolumes()
	nodes := d.Informers.Core().V1().Nodes()
	classes := d.Informers.Storage().V1().StorageClasses()
	p := &provisioner{
		client: d.Client, directories: directories, events: d.Recorder(LocalProvisionerName),
		claims: claims.Lister(), volumes: volumes.Lister(), nodes: nodes.Lister(), classes: classes.Lister(),
		full: flowcontrol.NewBackOff(time.Second, time.Minute),
	}
	return reconcile.Controller{
		Name:    "LocalProvisioner",
		Workers: d.Workers,
		Watch: []reconcile.Source{
			reconcile.On(claims.Informer(), provisionedClaim),
			reconcile.On(volumes.Informer(), provisionedVolume),
			reconcile.On(nodes.Informer(), p.nodeChanged),
			reconcile.Synced(classes.Informer()),
		},
		Sync: func(ctx context.Context, key reconcile.Key) (time.Duration, error) {
			if key.Namespace == "" {
				return 0, p.syncVolume(ctx, key.Name)
			}
			return p.syncClaim(ctx, key)
		},
	}
}

type provisioner struct {
	client      kubernetes.Interface
	directories NodeVolumes
	events      record.EventRecorder
	claims      corelisters.PersistentVolumeClaimLister
	volumes     corelisters.PersistentVolumeLister
	nodes       corelisters.NodeLister
	classes     storagelisters.StorageClassLister
	// full says which nodes had no room for a claim, and until when that is believed: the scheduler may choose them again at once.
	full *flowcontrol.Backoff
}

// provisionedClaim names a claim that is for this provisioner, and the volume of one that is gone.
func provisionedClaim(old, claim *corev1.PersistentVolumeClaim) []reconcile.Key {
	switch {
	case claim == nil && old.Spec.VolumeName != "":
		return []reconcile.Key{{Name: old.Spec.VolumeName}}
	case claim == nil || claim.Annotations[volume.AnnStorageProvisioner] != LocalProvisionerName:
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(claim)}
}

// provisionedVolume names a volume of this provisioner.
func provisionedVolume(_, pv *corev1.PersistentVolume) []reconcile.Key {
	if pv == nil || !provisioned(pv) {
		return nil
	}
	return []reconcile.Key{reconcile.KeyOf(pv)}
}

func provisioned(pv *corev1.PersistentVolume) bool {
	return pv.Annotations[volume.AnnDynamicallyProvisioned] == LocalProvisionerName
}

// nodeChanged names what may have waited for a node: it is new, gone, or has got ready or the contrary.
func (p *provisioner) nodeChanged(old, node *corev1.Node) []reconcile.Key {
	if old != nil && node != nil && ready(old) == ready(node) {
		return nil
	}
	name := nameOf(old, node)
	var keys []reconcile.Key
	claims, _ := p.claims.List(labels.Everything()) // a lister over a cache has no errors
	for _, claim := range claims {
		if claim.Spec.VolumeName == "" && claim.Annotations[volume.AnnSelectedNode] == name {
			keys = append(keys, provisionedClaim(nil, claim)...)
		}
	}
	volumes, _ := p.volumes.List(labels.Everything())
	for _, pv := range volumes {
		if pv.Status.Phase != corev1.VolumeBound || pv.DeletionTimestamp != nil {
			keys = append(keys, provisionedVolume(nil, pv)...)
		}
	}
	return keys
}

func nameOf(old, node *corev1.Node) string {
	if node == nil {
		return old.Name
	}
	return node.Name
}

func ready(node *corev1.Node) bool {
	return slices.ContainsFunc(node.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// syncClaim returns when a claim is to be looked at again; zero for when it changes.
func (p *provisioner) syncClaim(ctx context.Context, key reconcile.Key) (time.Duration, error) {
	claim, err := p.claims.PersistentVolumeClaims(key.Namespace).Get(key.Name)
	switch {
	case err != nil:
		return 0, reconcile.IgnoreNotFound(err)
	case claim.Spec.VolumeName != "":
		return 0, p.resize(ctx, claim)
	case claim.DeletionTimestamp != nil || claim.Annotations[volume.AnnStorageProvisioner] != LocalProvisionerName:
		return 0, nil
	}
	class, err := classOf(ctx, p.client, p.classes, claim)
	if err != nil || class.Provisioner != LocalProvisionerName {
		return 0, reconcile.IgnoreNotFound(err)
	}
	if _, err := p.volumes.Get(volumeName(claim)); !apierrors.IsNotFound(err) {
		return 0, err // it is made; binding is not this loop's
	}
	if p.full.IsInBackOffSinceUpdate(onNode(claim), time.Now()) {
		return p.full.Get(onNode(claim)), nil
	}
	return 0, p.provision(ctx, claim, class)
}

// onNode names a claim and the node that was chosen for it.
func onNode(claim *corev1.PersistentVolumeClaim) string {
	return string(claim.UID) + "/" + claim.Annotations[volume.AnnSelectedNode]
}

// volumeName is the name of the volume that is made for a claim. It says which claim, so that none is made twice.
func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

// provision makes the directory, then the volume: who finds a volume finds its directory.
func (p *provisioner) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	if err := supported(claim, class); err != nil {
		p.failed(claim, class, err)
		return nil // until one of them changes
	}
	node, err := p.nodeFor(ctx, claim)
	switch {
	case apierrors.IsNotFound(err):
		return p.reschedule(ctx, claim, class, fmt.Errorf("node %q is not there", claim.Annotations[volume.AnnSelectedNode]))
	case err != nil:
		return err
	case !ready(node):
		return p.reschedule(ctx, claim, class, fmt.Errorf("node %q is not ready", node.Name))
	}
	p.events.Eventf(claim, corev1.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", claim.Namespace+"/"+claim.Name)
	path, err := p.directories.Make(ctx, node.Name, volumeName(claim))
	switch {
	case errors.Is(err, ErrNoSpace):
		p.full.GC() // of claims that are gone
		p.full.Next(onNode(claim), time.Now())
		return p.reschedule(ctx, claim, class, err)
	case err != nil:
		p.failed(claim, class, err)
		return err
	}
	pv, err := p.client.CoreV1().PersistentVolumes().Create(ctx, newVolume(claim, class, node, path), metav1.CreateOptions{})
	if apierrors.IsAlreadyExists(err) {
		return nil // the cache did not know it yet
	}
	if err != nil {
		p.failed(claim, class, err)
		return err
	}
	p.events.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", pv.Name)
	return nil
}

// nodeFor returns the node that was chosen for a claim. A cache may hear last of what the scheduler knew when it chose the node,
// so the server is asked before the choice is taken back: a node is missing or not ready only if the server says so.
func (p *provisioner) nodeFor(ctx context.Context, claim *corev1.PersistentVolumeClaim) (*corev1.Node, error) {
	name := claim.Annotations[volume.AnnSelectedNode]
	node, err := p.nodes.Get(name)
	if apierrors.IsNotFound(err) || err == nil && !ready(node) {
		return p.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}
	return node, err
}

func (p *provisioner) failed(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, err error) {
	p.events.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %v", class.Name, err)
}

// reschedule leaves it to the scheduler to choose a node again. The choice is taken back only as long as it is the one
// that failed.
func (p *provisioner) reschedule(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, why error) error {
	p.failed(claim, class, why)
	claim = claim.DeepCopy()
	delete(claim.Annotations, volume.AnnSelectedNode)
	_, err := p.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	return reconcile.IgnoreNotFound(err)
}

// supported says what of a claim or a class a directory cannot give.
func supported(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	oneNode := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce, corev1.ReadWriteOncePod}
	switch spec := claim.Spec; {
	case ptr.Deref(spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem:
		return errors.New("a directory is no block device: only volumeMode Filesystem is supported")
	case slices.ContainsFunc(spec.AccessModes, func(m corev1.PersistentVolumeAccessMode) bool { return !slices.Contains(oneNode, m) }):
		return errors.New("a directory is on one node: only the access modes ReadWriteOnce and ReadWriteOncePod are supported")
	case spec.Selector != nil:
		return errors.New("claim.Spec.Selector is not supported")
	case spec.DataSource != nil || spec.DataSourceRef != nil:
		return errors.New("volumes with contents from a data source are not supported")
	case spec.VolumeAttributesClassName != nil && *spec.VolumeAttributesClassName != "":
		return errors.New("classes of volume attributes are not supported")
	case len(class.Parameters) > 0:
		return errors.New("the class has parameters; a directory has none")
	case len(class.MountOptions) > 0:
		return errors.New("the class has mount options; a directory has none")
	case claim.Annotations[volume.AnnSelectedNode] == "":
		return fmt.Errorf("no node was selected: the class must have the volumeBindingMode %s", storagev1.VolumeBindingWaitForFirstConsumer)
	}
	return nil
}

func newVolume(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node, path string) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:        volumeName(claim),
			Annotations: map[string]string{volume.AnnDynamicallyProvisioned: LocalProvisionerName},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: *claim.Spec.Resources.Requests.Storage()},
			AccessModes:                   claim.Spec.AccessModes,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			StorageClassName:              class.Name,
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			ClaimRef: &corev1.ObjectReference{
				APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name,
				UID: claim.UID, ResourceVersion: claim.ResourceVersion,
			},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node.Labels[corev1.LabelHostname]},
				}},
			}}}},
		},
	}
	pv.Finalizers = finalizersOf(pv)
	return pv
}

// finalizersOf are the finalizers that a volume should have: one that is to be wiped stays until it is.
func finalizersOf(pv *corev1.PersistentVolume) []string {
	others := slices.DeleteFunc(slices.Clone(pv.Finalizers), func(f string) bool { return f == provisionedFinalizer })
	if pv.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete {
		return others
	}
	return append(others, provisionedFinalizer)
}

func (p *provisioner) syncVolume(ctx context.Context, name string) error {
	pv, err := p.volumes.Get(name)
	if err != nil || !provisioned(pv) {
		return reconcile.IgnoreNotFound(err)
	}
	wanted := pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	if has := slices.Contains(pv.Finalizers, provisionedFinalizer); has != wanted && !(wanted && pv.DeletionTimestamp != nil) {
		return p.setFinalizers(ctx, pv, finalizersOf(pv)) // its policy was changed
	}
	if !wanted || pv.DeletionTimestamp == nil && pv.Status.Phase != corev1.VolumeReleased && pv.Status.Phase != corev1.VolumeFailed {
		return nil
	}
	return p.reclaim(ctx, pv)
}

func (p *provisioner) setFinalizers(ctx context.Context, pv *corev1.PersistentVolume, finalizers []string) error {
	pv = pv.DeepCopy()
	pv.Finalizers = finalizers
	_, err := p.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{})
	return reconcile.IgnoreNotFound(err)
}

// reclaim wipes a volume, then deletes it.
func (p *provisioner) reclaim(ctx context.Context, pv *corev1.PersistentVolume) error {
	claimed, err := p.claimed(ctx, pv)
	if claimed || err != nil {
		return err
	}
	node := p.nodeOf(pv)
	if node == nil {
		p.events.Event(pv, corev1.EventTypeWarning, "VolumeFailedDelete", "the node of the volume is not there: the volume is wiped when it comes back")
		return nil // until then
	}
	if err := p.directories.Wipe(ctx, node.Name, pv.Name); err != nil {
		p.events.Event(pv, corev1.EventTypeWarning, "VolumeFailedDelete", err.Error())
		return err
	}
	err = p.client.CoreV1().PersistentVolumes().Delete(ctx, pv.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pv.UID))})
	if reconcile.IgnoreNotFound(err) != nil {
		return err
	}
	pv, err = p.client.CoreV1().PersistentVolumes().Get(ctx, pv.Name, metav1.GetOptions{})
	if err != nil {
		return reconcile.IgnoreNotFound(err)
	}
	return p.setFinalizers(ctx, pv, slices.DeleteFunc(pv.Finalizers, func(f string) bool { return f == provisionedFinalizer }))
}

// claimed asks the server whether a volume has its claim still: what is wiped is lost.
func (p *provisioner) claimed(ctx context.Context, pv *corev1.PersistentVolume) (bool, error) {
	ref := pv.Spec.ClaimRef
	if ref == nil {
		return false, nil
	}
	claim, err := p.client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && (ref.UID == "" || claim.UID == ref.UID), err
}

// nodeOf is the node that a volume is on, or nil.
func (p *provisioner) nodeOf(pv *corev1.PersistentVolume) *corev1.Node {
	nodes, _ := p.nodes.List(labels.Everything()) // a lister over a cache has no errors
	i := slices.IndexFunc(nodes, func(n *corev1.Node) bool {
		return pv.Spec.NodeAffinity != nil && volume.CheckNodeAffinity(pv, n.Labels) == nil
	})
	if i < 0 {
		return nil
	}
	return nodes[i]
}

// resizing are the conditions of a claim whose volume is on its way to another size.
var resizing = []corev1.PersistentVolumeClaimConditionType{
	corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimFileSystemResizePending,
	corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError,
}

// resize gives a claim the size that it asks for. A directory has no size of its own, so there is nothing to do on the
// node: volume and claim say the new one.
func (p *provisioner) resize(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	want, have := claim.Spec.Resources.Requests.Storage(), claim.Status.Capacity.Storage()
	if claim.Status.Phase != corev1.ClaimBound || want.Cmp(*have) <= 0 {
		return nil
	}
	pv, err := p.volumes.Get(claim.Spec.VolumeName)
	if err != nil || !provisioned(pv) || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID != claim.UID {
		return reconcile.IgnoreNotFound(err)
	}
	if pv.Spec.Capacity.Storage().Cmp(*want) < 0 {
		pv = pv.DeepCopy()
		pv.Spec.Capacity[corev1.ResourceStorage] = *want
		if _, err := p.client.CoreV1().PersistentVolumes().Update(ctx, pv, metav1.UpdateOptions{}); err != nil {
			p.events.Event(claim, corev1.EventTypeWarning, "VolumeResizeFailed", err.Error())
			return err
		}
	}
	resized := claim.DeepCopy()
	resized.Status = resizedStatus(resized.Status, corev1.ResourceList{corev1.ResourceStorage: *want})
	if equality.Semantic.DeepEqual(resized.Status, claim.Status) {
		return nil
	}
	if _, err := p.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, resized, metav1.UpdateOptions{}); err != nil {
		return reconcile.IgnoreNotFound(err)
	}
	p.events.Event(claim, corev1.EventTypeNormal, "VolumeResizeSuccessful", "Resize volume succeeded")
	return nil
}

func resizedStatus(status corev1.PersistentVolumeClaimStatus, size corev1.ResourceList) corev1.PersistentVolumeClaimStatus {
	status.Capacity, status.AllocatedResources = size, size
	delete(status.AllocatedResourceStatuses, corev1.ResourceStorage)
	if len(status.AllocatedResourceStatuses) == 0 {
		status.AllocatedResourceStatuses = nil
	}
	status.Conditions = slices.DeleteFunc(status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return slices.Contains(resizing, c.Type)
	})
	return status
}
