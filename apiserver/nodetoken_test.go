package apiserver_test

import (
	"fmt"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestNodeTokenForDriver: a node gets tokens for its pods with the audiences that the CSI drivers of their volumes ask
// for, whichever way the volume came to the pod. The answers are those of kube-apiserver 1.36.3.
func TestNodeTokenForDriver(t *testing.T) {
	s := apiservertest.Start(t, nil)
	admin := clientset(t, apiservertest.Config(s, "admin"))
	node := clientset(t, apiservertest.Config(s, "system:node:n1", "system:nodes"))
	makeDriverVolumes(t, admin)

	const unnamed = `audience "vault" not found in pod spec volume, system:node:n1 is not authorized to request tokens for this audience`
	for i, c := range []struct {
		name    string
		volumes []corev1.VolumeSource
		problem string // empty: the token is given
	}{
		{"inline", []corev1.VolumeSource{inline("asks")}, ""},
		{"inline, another audience", []corev1.VolumeSource{inline("asks-other")}, unnamed},
		{"inline, no driver", []corev1.VolumeSource{inline("gone")}, `error validating audience "vault": csidriver.storage.k8s.io "gone" not found`},
		{"claim", []corev1.VolumeSource{claimed("bound")}, ""},
		{"claim of a volume that was migrated", []corev1.VolumeSource{claimed("old")}, ""},
		{"claim of a volume without a driver", []corev1.VolumeSource{claimed("nfs")}, unnamed},
		{"claim without a volume", []corev1.VolumeSource{claimed("unbound")}, `error validating audience "vault": persistentvolume "" not found`},
		{"no claim", []corev1.VolumeSource{claimed("gone")}, `error validating audience "vault": persistentvolumeclaim "gone" not found`},
		{"ephemeral claim", []corev1.VolumeSource{ephemeral()}, ""},
		{"inline volume that was migrated", []corev1.VolumeSource{ebs()}, ""},
		{"two problems", []corev1.VolumeSource{claimed("gone"), inline("gone")},
			`error validating audience "vault": [persistentvolumeclaim "gone" not found, csidriver.storage.k8s.io "gone" not found]`},
		{"a problem, and a driver that asks", []corev1.VolumeSource{claimed("gone"), inline("asks")}, ""},
		{"none", nil, unnamed},
	} {
		t.Run(c.name, func(t *testing.T) {
			pod := podOnNode(t, admin, fmt.Sprint("p", i), c.volumes)
			err := requestToken(t, node, pod, "vault")
			want := ""
			if c.problem != "" {
				want = `serviceaccounts "default" is forbidden: ` + c.problem
			}
			if got := text(err); got != want {
				t.Errorf("got  %s\nwant %s", got, want)
			}
		})
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func inline(driver string) corev1.VolumeSource {
	return corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: driver}}
}

func claimed(name string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name}}
}

func ephemeral() corev1.VolumeSource {
	return corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{Spec: claimSpec("")}}}
}

func ebs() corev1.VolumeSource {
	return corev1.VolumeSource{AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-1"}}
}

func claimSpec(volume string) corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, VolumeName: volume, StorageClassName: ptr.To(""),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: apiresource.MustParse("1Gi")}},
	}
}

// makeDriverVolumes makes drivers and the volumes and claims that TestNodeTokenForDriver is about.
func makeDriverVolumes(t *testing.T, admin *kubernetes.Clientset) {
	t.Helper()
	made := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	_, err := admin.CoreV1().ServiceAccounts("default").Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	made(err)
	for name, audience := range map[string]string{"asks": "vault", "asks-other": "other", "ebs.csi.aws.com": "vault"} {
		_, err := admin.StorageV1().CSIDrivers().Create(t.Context(), &storagev1.CSIDriver{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       storagev1.CSIDriverSpec{TokenRequests: []storagev1.TokenRequest{{Audience: audience}}},
		}, metav1.CreateOptions{})
		made(err)
	}
	for name, source := range map[string]corev1.PersistentVolumeSource{
		"bound": {CSI: &corev1.CSIPersistentVolumeSource{Driver: "asks", VolumeHandle: "h"}},
		"old":   {AWSElasticBlockStore: &corev1.AWSElasticBlockStoreVolumeSource{VolumeID: "vol-1"}},
		"nfs":   {NFS: &corev1.NFSVolumeSource{Server: "s", Path: "/"}},
	} {
		_, err := admin.CoreV1().PersistentVolumes().Create(t.Context(), &corev1.PersistentVolume{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeSpec{PersistentVolumeSource: source, AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
				Capacity: corev1.ResourceList{corev1.ResourceStorage: apiresource.MustParse("1Gi")}},
		}, metav1.CreateOptions{})
		made(err)
	}
	for claim, volume := range map[string]string{"bound": "bound", "old": "old", "nfs": "nfs", "unbound": "", "p8-v0": "bound"} {
		_, err := admin.CoreV1().PersistentVolumeClaims("default").Create(t.Context(),
			&corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: claim}, Spec: claimSpec(volume)}, metav1.CreateOptions{})
		made(err)
	}
}

func podOnNode(t *testing.T, admin *kubernetes.Clientset, name string, volumes []corev1.VolumeSource) *corev1.Pod {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		NodeName: "n1", Containers: []corev1.Container{{Name: "c", Image: "i"}},
	}}
	for i, source := range volumes {
		pod.Spec.Volumes = append(pod.Spec.Volumes, corev1.Volume{Name: fmt.Sprint("v", i), VolumeSource: source})
	}
	pod, err := admin.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return pod
}

func requestToken(t *testing.T, node *kubernetes.Clientset, pod *corev1.Pod, audience string) error {
	_, err := node.CoreV1().ServiceAccounts("default").CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{audience},
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}},
	}, metav1.CreateOptions{})
	return err
}
