package envtest_test

import (
	"crypto/tls"
	"encoding/json"
	"errors"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	admissionv1 "k8s.io/api/admission/v1"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/skiff-k8s/skiff/apiserver/backend/memory"
	"github.com/skiff-k8s/skiff/skifftest"
	"github.com/skiff-k8s/skiff/skifftest/envtest"
)

var songs = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "songs"}

func song(title string) *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1", "kind": "Song", "metadata": map[string]any{"generateName": "song-"}, "spec": map[string]any{"title": title},
	}}
}

// start starts an environment until the test ends.
func start(t *testing.T, e *envtest.Environment) {
	t.Helper()
	t.Setenv("USE_EXISTING_CLUSTER", "")
	t.Cleanup(func() {
		if err := e.Stop(); err != nil {
			t.Error(err)
		}
	})
	if _, err := e.Start(); err != nil {
		t.Fatal(err)
	}
}

// TestASuite has what suites have: definitions, a webhook, users.
func TestASuite(t *testing.T) {
	e := &envtest.Environment{
		CRDDirectoryPaths: []string{"testdata/crds"}, ErrorIfCRDPathMissing: true,
		WebhookInstallOptions: envtest.WebhookInstallOptions{Paths: []string{"testdata/hooks.yaml"}},
	}
	start(t, e)
	if len(e.CRDs) != 1 || e.CRDs[0].UID == "" {
		t.Fatalf("installed are %v", e.CRDs)
	}
	serveWebhook(t, &e.WebhookInstallOptions)
	client := dynamic.NewForConfigOrDie(e.Config).Resource(songs).Namespace("default")
	if _, err := client.Create(t.Context(), song("good"), metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := client.Create(t.Context(), song("bad"), metav1.CreateOptions{}); err == nil || !strings.Contains(err.Error(), "a bad song") {
		t.Errorf("what the webhook refuses: %v", err)
	}

	alice, err := e.AddUser(envtest.User{Name: "alice"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := dynamic.NewForConfigOrDie(alice.Config()).Resource(songs).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("what nobody has allowed: %v", err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(e.KubeConfig)
	if err != nil {
		t.Fatal(err)
	}
	api := kubernetes.NewForConfigOrDie(config)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if _, err := api.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Errorf("a pod, though nobody makes service accounts: %v", err)
	}
}

// serveWebhook serves as suites do, with the certificates that were made for it. It refuses songs that are bad.
func serveWebhook(t *testing.T, o *envtest.WebhookInstallOptions) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(o.LocalServingCertDir, "tls.crt"), filepath.Join(o.LocalServingCertDir, "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", net.JoinHostPort(o.LocalServingHost, strconv.Itoa(o.LocalServingPort)))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /validate", func(w http.ResponseWriter, r *http.Request) {
		var review admissionv1.AdmissionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			t.Error(err)
		}
		review.Response = &admissionv1.AdmissionResponse{UID: review.Request.UID, Allowed: true}
		if strings.Contains(string(review.Request.Object.Raw), `"bad"`) {
			review.Response.Allowed, review.Response.Result = false, &metav1.Status{Message: "a bad song"}
		}
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Error(err)
		}
	})
	s := &httptest.Server{Listener: l, Config: &http.Server{Handler: mux}, TLS: &tls.Config{Certificates: []tls.Certificate{pair}}}
	s.StartTLS()
	t.Cleanup(s.Close)
}

// TestNothingIsLeftOfASuite: the port is closed and the certificates are gone.
func TestNothingIsLeftOfASuite(t *testing.T) {
	e := &envtest.Environment{}
	if _, err := e.Start(); err != nil {
		t.Fatal(err)
	}
	dir, host := e.WebhookInstallOptions.LocalServingCertDir, strings.TrimPrefix(e.Config.Host, "https://")
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the certificates: %v", err)
	}
	l, err := net.Listen("tcp", host)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if _, err := e.Start(); err != nil { // again
		t.Fatal(err)
	}
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
}

// TestArguments: admission plugins are on and off as the arguments say, and what is not known is not ignored.
func TestArguments(t *testing.T) {
	e := &envtest.Environment{}
	e.ControlPlane.GetAPIServer().Configure().Append("enable-admission-plugins", "AlwaysPullImages").Append("disable-admission-plugins", "LimitRanger")
	start(t, e)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i:1"}}}}
	made, err := kubernetes.NewForConfigOrDie(e.Config).CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if made.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways {
		t.Errorf("the image is pulled %s", made.Spec.Containers[0].ImagePullPolicy)
	}
	other := &envtest.Environment{}
	other.ControlPlane.GetAPIServer().Configure().Set("event-ttl", "1s")
	if _, err := other.Start(); err == nil || !strings.Contains(err.Error(), "event-ttl") {
		t.Errorf("an argument that is not known: %v", err)
	}
	if err := other.Stop(); err != nil {
		t.Error(err)
	}
}

// TestAWholeCluster: options of skifftest are those of an environment too.
func TestAWholeCluster(t *testing.T) {
	e := &envtest.Environment{Options: []skifftest.Option{skifftest.Whole()}}
	start(t, e)
	if _, err := e.Cluster().Client().CoreV1().ServiceAccounts("default").Get(t.Context(), "default", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

// TestAnExistingCluster is used, and what was installed is removed if that is asked for.
func TestAnExistingCluster(t *testing.T) {
	c := skifftest.Start(t, skifftest.WithoutControllers(), skifftest.WithoutScheduler(), skifftest.Nodes(0))
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := os.WriteFile(file, c.Kubeconfig(), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", file)
	t.Setenv("USE_EXISTING_CLUSTER", "true")
	e := &envtest.Environment{CRDInstallOptions: envtest.CRDInstallOptions{Paths: []string{"testdata/crds/songs.yaml"}, CleanUpAfterUse: true}}
	if _, err := e.Start(); err != nil {
		t.Fatal(err)
	}
	definitions := dynamic.NewForConfigOrDie(c.Config()).Resource(apiextensionsv1.SchemeGroupVersion.WithResource("customresourcedefinitions"))
	if _, err := definitions.Get(t.Context(), "songs.example.com", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if err := e.Stop(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		_, err := definitions.Get(t.Context(), "songs.example.com", metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("the definition is there after the end: %v", err)
		}
	}
}

// TestMissingPaths are an error, or not.
// TestTheLogIsWrittenWhereItIsAsked: a server says that its storage has ended.
func TestTheLogIsWrittenWhereItIsAsked(t *testing.T) {
	t.Setenv("USE_EXISTING_CLUSTER", "")
	stored := memory.New()
	e := &envtest.Environment{Options: []skifftest.Option{skifftest.Storage(func() (skifftest.Engine, error) { return stored, nil })}}
	log := make(lines, 100)
	e.ControlPlane.GetAPIServer().Err = log
	if _, err := e.Start(); err != nil {
		t.Fatal(err)
	}
	if err := stored.Close(); err != nil {
		t.Fatal(err)
	}
	if line := <-log; !strings.Contains(line, "level=ERROR") {
		t.Errorf("the server says %q", line)
	}
	_ = e.Stop() // it may miss its storage
}

// lines takes what is written to it as long as there is room.
type lines chan string

// Write implements io.Writer.
func (l lines) Write(line []byte) (int, error) {
	select {
	case l <- string(line):
	default:
	}
	return len(line), nil
}

func TestMissingPaths(t *testing.T) {
	for _, test := range []struct {
		options envtest.CRDInstallOptions
		is      error
	}{
		{envtest.CRDInstallOptions{Paths: []string{"testdata/none"}}, nil},
		{envtest.CRDInstallOptions{Paths: []string{"testdata/none"}, ErrorIfPathMissing: true}, fs.ErrNotExist},
	} {
		if err := envtest.ReadCRDFiles(&test.options); !errors.Is(err, test.is) {
			t.Errorf("%v: %v", test.options.Paths, err)
		}
	}
}

type hub struct{ metav1.TypeMeta }

func (h *hub) DeepCopyObject() runtime.Object { c := *h; return &c }
func (*hub) Hub()                             {}

type spoke struct{ hub }

func (s *spoke) DeepCopyObject() runtime.Object { c := *s; return &c }
func (*spoke) Hub(string)                       {}
func (*spoke) ConvertTo(any) error              { return nil }
func (*spoke) ConvertFrom(any) error            { return nil }

// TestConversion: kinds of which all versions can be converted have the webhook of the suite, others have none.
func TestConversion(t *testing.T) {
	s := runtime.NewScheme()
	group := func(version string) schema.GroupVersion {
		return schema.GroupVersion{Group: "example.com", Version: version}
	}
	s.AddKnownTypeWithName(group("v1").WithKind("Song"), &hub{})
	s.AddKnownTypeWithName(group("v2").WithKind("Song"), &spoke{})
	s.AddKnownTypeWithName(group("v1").WithKind("Plain"), &corev1.Pod{})
	for kind, want := range map[string]bool{"Song": true, "Plain": false, "None": false} {
		crd := &apiextensionsv1.CustomResourceDefinition{ObjectMeta: metav1.ObjectMeta{Name: strings.ToLower(kind) + "s.example.com"}, Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.ClusterScoped, Names: apiextensionsv1.CustomResourceDefinitionNames{Kind: kind, Plural: strings.ToLower(kind) + "s"},
			Conversion: &apiextensionsv1.CustomResourceConversion{Strategy: apiextensionsv1.NoneConverter},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{Name: "v1", Served: true, Storage: true, Schema: &apiextensionsv1.CustomResourceValidation{
				OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}}}},
		}}
		e := &envtest.Environment{Scheme: s, CRDs: []*apiextensionsv1.CustomResourceDefinition{crd}}
		start(t, e)
		got := e.CRDs[0].Spec.Conversion
		if hooked := got != nil && got.Strategy == apiextensionsv1.WebhookConverter && strings.HasSuffix(*got.Webhook.ClientConfig.URL, "/convert"); hooked != want {
			t.Errorf("%s: %+v", kind, got)
		}
	}
	if !scheme.Scheme.Recognizes(apiextensionsv1.SchemeGroupVersion.WithKind("CustomResourceDefinition")) {
		t.Error("suites expect that client-go's scheme knows definitions")
	}
}
