package storage

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
	"github.com/skiff-k8s/skiff/controllers/reconcile"
)

// anywhere makes every directory.
type anywhere struct{}

func (anywhere) Make(_ context.Context, _, name string) (string, error) {
	return "/volumes/" + name, nil
}
func (anywhere) Wipe(context.Context, string, string) error { return nil }

// TestNodeIsNewerThanTheCache: the scheduler may know a node that the cache of the provisioner does not, or knows as not ready.
// Its choice stands, and the volume is made. A choice that the server knows nothing better of is taken back.
func TestNodeIsNewerThanTheCache(t *testing.T) {
	client := kubernetes.NewForConfigOrDie(apiservertest.Config(apiservertest.Start(t, nil), "admin"))
	class, err := client.StorageV1().StorageClasses().Create(t.Context(), &storagev1.StorageClass{
		ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: LocalProvisionerName,
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer),
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	node := func(name string, ready corev1.ConditionStatus) *corev1.Node {
		node, err := client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
		if node, err = client.CoreV1().Nodes().UpdateStatus(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		return node
	}
	fresh, ready, away := node("fresh", corev1.ConditionTrue), node("ready", corev1.ConditionTrue), node("away", corev1.ConditionFalse)
	notYet := ready.DeepCopy()
	notYet.Status.Conditions[0].Status = corev1.ConditionUnknown

	for name, test := range map[string]struct {
		chosen string
		cached *corev1.Node
		made   bool
	}{
		"not in the cache":       {fresh.Name, nil, true},
		"not ready in the cache": {ready.Name, notYet, true},
		"not ready":              {away.Name, away, false},
		"not there":              {"nowhere", nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			claim, err := client.CoreV1().PersistentVolumeClaims("default").Create(t.Context(), &corev1.PersistentVolumeClaim{
				ObjectMeta: metav1.ObjectMeta{GenerateName: "data-", Annotations: map[string]string{
					volume.AnnStorageProvisioner: LocalProvisionerName, volume.AnnSelectedNode: test.chosen,
				}},
				Spec: corev1.PersistentVolumeClaimSpec{
					StorageClassName: &class.Name, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
					Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
				},
			}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
			deps := withoutNews(client)
			loop := LocalProvisioner(deps, anywhere{})
			if test.cached != nil {
				add(t, deps.Informers.Core().V1().Nodes().Informer(), test.cached)
			}
			add(t, deps.Informers.Core().V1().PersistentVolumeClaims().Informer(), claim)
			add(t, deps.Informers.Storage().V1().StorageClasses().Informer(), class)
			if _, err := loop.Sync(t.Context(), reconcile.KeyOf(claim)); err != nil {
				t.Fatal(err)
			}
			_, err = client.CoreV1().PersistentVolumes().Get(t.Context(), "pvc-"+string(claim.UID), metav1.GetOptions{})
			if made := err == nil; made != test.made || err != nil && !apierrors.IsNotFound(err) {
				t.Errorf("a volume is made: %v (%v), want %v", made, err, test.made)
			}
			claim, err = client.CoreV1().PersistentVolumeClaims("default").Get(t.Context(), claim.Name, metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			if stands := claim.Annotations[volume.AnnSelectedNode] == test.chosen; stands != test.made {
				t.Errorf("the choice of the node stands: %v, want %v", stands, test.made)
			}
		})
	}
}
