package admission

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/resource"
)

func TestClaimResize(t *testing.T) {
	kinds["persistentvolumeclaims"] = &resource.Resource{Version: "v1", Kind: "PersistentVolumeClaim", Plural: "persistentvolumeclaims"}
	kinds["storageclasses"] = &resource.Resource{Group: storagev1.GroupName, Version: "v1", Kind: "StorageClass", Plural: "storageclasses", ClusterScoped: true}
	cluster := objects{
		"storageclasses//grows": &storagev1.StorageClass{AllowVolumeExpansion: ptr.To(true)},
		"storageclasses//fixed": &storagev1.StorageClass{},
	}
	claim := func(class, size string, phase corev1.PersistentVolumeClaimPhase) *corev1.PersistentVolumeClaim {
		return &corev1.PersistentVolumeClaim{
			ObjectMeta: named("c"), Status: corev1.PersistentVolumeClaimStatus{Phase: phase},
			Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: &class, Resources: corev1.VolumeResourceRequirements{
				Requests: corev1.ResourceList{corev1.ResourceStorage: apiresource.MustParse(size)}}},
		}
	}
	const refused = `persistentvolumeclaims "c" is forbidden: only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize`
	for _, c := range []struct {
		name, class, size string
		phase             corev1.PersistentVolumeClaimPhase
		want              string
	}{
		{"can grow", "grows", "2Gi", corev1.ClaimBound, ""},
		{"cannot grow", "fixed", "2Gi", corev1.ClaimBound, refused},
		{"no such class", "gone", "2Gi", corev1.ClaimBound, refused},
		{"stays", "fixed", "1Gi", corev1.ClaimBound, ""},
		{"has no volume", "grows", "2Gi", corev1.ClaimPending, `persistentvolumeclaims "c" is forbidden: Only bound persistent volume claims can be expanded`},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := attributes(cluster, "persistentvolumeclaims", update, claim(c.class, c.size, c.phase), claim(c.class, "1Gi", c.phase))
			checkError(t, run(t, persistentVolumeClaimResize(), a), c.want)
		})
	}
}

func TestPodResize(t *testing.T) {
	node := func(system string) objects {
		return objects{"nodes//n": &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{corev1.LabelOSStable: system}},
			Status:     corev1.NodeStatus{Allocatable: corev1.ResourceList{"cpu": apiresource.MustParse("2"), "memory": apiresource.MustParse("1Gi")}},
		}}
	}
	sized := func(cpu string, generation int64) *corev1.Pod {
		return pod("p", func(p *corev1.Pod) {
			p.Generation, p.Spec.NodeName = generation, "n"
			p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": apiresource.MustParse(cpu)}
		})
	}
	for _, c := range []struct {
		name    string
		cluster objects
		pod     *corev1.Pod
		cause   metav1.CauseType
		want    string
	}{
		{"fits", node("linux"), sized("2", 2), "", ""},
		{"too much", node("linux"), sized("3", 2), "NodeCapacity", `pods "p" is forbidden: node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000`},
		{"nothing changes", node("linux"), sized("3", 1), "", ""},
		{"another system", node("windows"), sized("1", 2), "UnsupportedPlatform", `pods "p" is forbidden: pod resize is only supported on linux nodes, node "n" is "windows"`},
		{"no node", objects{}, sized("1", 2), "", `pods "p" is forbidden: node "n" not found`},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := attributes(c.cluster, "pods", update, c.pod, sized("1", 1))
			a.Subresource = "resize"
			err := run(t, podResizeValidator(), a)
			checkError(t, err, c.want)
			if c.cause != "" && !apierrors.HasStatusCause(err, c.cause) {
				t.Errorf("the error does not tell cause %s", c.cause)
			}
		})
	}
}
