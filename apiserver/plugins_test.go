package apiserver_test

import (
	"path"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/skiff-k8s/skiff/apiserver"
	"github.com/skiff-k8s/skiff/apiserver/admission"
	"github.com/skiff-k8s/skiff/apiserver/apiservertest"
)

// TestChosenPlugins: what kube-apiserver 1.36.3 says with plugins that are off by default.
func TestChosenPlugins(t *testing.T) {
	s := apiservertest.Start(t, func(o *apiserver.Options) {
		o.Admission = admission.Choice{Enable: []string{"AlwaysPullImages", "DenyServiceExternalIPs", "OwnerReferencesPermissionEnforcement"}, Disable: []string{"ServiceAccount"}}
	})
	clients := map[string]rest.Interface{
		"admin": clientset(t, apiservertest.Config(s, "admin")).CoreV1().RESTClient(), "bob": clientset(t, apiservertest.Config(s, "bob", "devs")).CoreV1().RESTClient(),
	}
	grant(t, s, "bob", []rbacv1.PolicyRule{
		{APIGroups: []string{""}, Resources: []string{"configmaps", "services", "pods"}, Verbs: []string{"create", "update", "patch", "get"}},
		{APIGroups: []string{"apps"}, Resources: []string{"deployments/finalizers"}, Verbs: []string{"update"}, ResourceNames: []string{"mine"}},
	})
	owned := func(name, more string) string {
		return `"ownerReferences":[{"apiVersion":"apps/v1","kind":"Deployment","name":"` + name + `","uid":"u"` + more + `}]`
	}
	const blocks, objects = `,"blockOwnerDeletion":true`, "/api/v1/namespaces/default/"
	for _, c := range []struct{ as, path, body, says string }{
		{"bob", objects + "services", `{"metadata":{"name":"s"},"spec":{"ports":[{"port":80}],"externalIPs":["203.0.113.1"]}}`,
			`services "s" is forbidden: Use of external IPs is denied by admission control`},
		{"bob", objects + "services", `{"metadata":{"name":"s"},"spec":{"ports":[{"port":80}]}}`, ""},
		{"bob", objects + "services/s", `{"spec":{"externalIPs":["203.0.113.1"]}}`, `services "s" is forbidden: Use of external IPs is denied by admission control`},
		{"bob", objects + "configmaps", `{"metadata":{"name":"a",` + owned("yours", "") + `}}`, ""},
		{"bob", objects + "configmaps", `{"metadata":{"name":"b",` + owned("yours", blocks) + `}}`,
			`configmaps "b" is forbidden: cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on: , <nil>`},
		{"bob", objects + "configmaps", `{"metadata":{"name":"b",` + owned("mine", blocks) + `}}`, ""},
		{"bob", objects + "configmaps", `{"metadata":{"name":"c","ownerReferences":[{"apiVersion":"none/v1","kind":"Nothing","name":"n","uid":"u","blockOwnerDeletion":true}]}}`,
			`configmaps "c" is forbidden: cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion none/v1 Kind Nothing: no matches for kind "Nothing" in version "none/v1"`},
		{"bob", objects + "configmaps", `{"metadata":{"name":"d"}}`, ""},
		{"bob", objects + "configmaps/d", `{"metadata":{` + owned("mine", "") + `}}`, `configmaps "d" is forbidden: cannot set an ownerRef on a resource you can't delete: , <nil>`},
		{"bob", objects + "configmaps/b", `{"data":{"a":"b"}}`, ""},
		{"admin", objects + "configmaps/d", `{"metadata":{` + owned("mine", blocks) + `}}`, ""},
	} {
		request := clients[c.as].Post().SetHeader("Content-Type", "application/json")
		if len(path.Base(c.path)) == 1 { // a name
			request = clients[c.as].Patch(types.MergePatchType)
		}
		err := request.AbsPath(c.path).Body([]byte(c.body)).Do(t.Context()).Error()
		if got := said(err); got != c.says {
			t.Errorf("%s %s %s: got %q, want %q", c.as, c.path, c.body, got, c.says)
		}
		if err != nil && !apierrors.IsForbidden(err) {
			t.Errorf("%s %s: %v", c.as, c.path, err)
		}
	}
}

func said(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// TestAlwaysPulledImages: every policy becomes Always, and a pod that is there is left alone until it gets another image.
func TestAlwaysPulledImages(t *testing.T) {
	start := func(enable ...string) *apiserver.Server {
		return apiservertest.Start(t, func(o *apiserver.Options) {
			o.Admission = admission.Choice{Enable: enable, Disable: []string{"ServiceAccount"}}
		})
	}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: corev1.PodSpec{
		Containers:     []corev1.Container{{Name: "c", Image: "i", ImagePullPolicy: corev1.PullNever}},
		InitContainers: []corev1.Container{{Name: "d", Image: "i"}},
		Volumes:        []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "x"}}}},
	}}
	api := clientset(t, apiservertest.Config(start("AlwaysPullImages"), "admin")).CoreV1().Pods("default")
	made, err := api.Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, got := range []corev1.PullPolicy{made.Spec.Containers[0].ImagePullPolicy, made.Spec.InitContainers[0].ImagePullPolicy, made.Spec.Volumes[0].Image.PullPolicy} {
		if got != corev1.PullAlways {
			t.Errorf("a policy is %s", got)
		}
	}
	if made, err = clientset(t, apiservertest.Config(start(), "admin")).CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := made.Spec.Containers[0].ImagePullPolicy; got != corev1.PullNever {
		t.Errorf("without the plugin the policy is %s", got)
	}
}

func TestPluginsThereAreNot(t *testing.T) {
	for _, c := range []struct {
		choice admission.Choice
		want   string
	}{
		{admission.Choice{Enable: []string{"Nothing"}}, `enable-admission-plugins plugin "Nothing" is unknown`},
		{admission.Choice{Disable: []string{"Nothing"}}, `disable-admission-plugins plugin "Nothing" is unknown`},
		{admission.Choice{Disable: []string{"RoleEscalation"}}, `disable-admission-plugins plugin "RoleEscalation" is unknown`},
		{admission.Choice{Enable: []string{"AlwaysPullImages"}, Disable: []string{"AlwaysPullImages"}}, "[AlwaysPullImages] in enable-admission-plugins and disable-admission-plugins overlapped"},
		{admission.Choice{File: "/none"}, `failed to apply admission: failed to read plugin config: unable to read admission control configuration from "/none" [open /none: no such file or directory]`},
	} {
		_, err := admission.Standard(admission.Config{Choice: c.choice})
		if err == nil || err.Error() != c.want {
			t.Errorf("%+v: %v, want %s", c.choice, err, c.want)
		}
	}
}
