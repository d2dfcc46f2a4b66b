package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/skiff-k8s/skiff/kubelet/untrusted"
)

// newManager runs a manager over a fake API server with these objects.
func newManager(t *testing.T, objects ...runtime.Object) (*Manager, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "serviceaccounts", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
			Token: "a.b.c", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour)),
		}}, nil
	})
	m := New(Config{Client: client, RootDir: t.TempDir(), NodeName: "n", Allocatable: func() v1.ResourceList {
		return v1.ResourceList{v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("1Gi")}
	}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		<-done
		uids, err := m.Pods()
		if err != nil {
			t.Error(err)
		}
		for _, uid := range uids {
			if err := m.Unmount(context.Background(), uid); err != nil {
				t.Error(err)
			}
		}
	})
	return m, client
}

// podWith is a pod with one container and these volumes.
func podWith(volumes ...v1.Volume) *v1.Pod {
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "uid-1", Labels: map[string]string{"b": "2", "a": "say \"1\""}},
		Spec: v1.PodSpec{
			ServiceAccountName: "default",
			Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{
				Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m")},
			}}},
			Volumes: volumes,
		},
	}
}

func mustMount(t *testing.T, m *Manager, pod *v1.Pod) {
	t.Helper()
	if err := m.Mount(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
}

// tree lists what users see of a volume: path, mode, contents.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) (failure error) {
		name, _ := filepath.Rel(dir, path)
		defer func() { // what is changed while this reads
			if errors.Is(failure, fs.ErrNotExist) {
				lines, failure = append(lines, name+" is gone"), nil
			}
		}()
		if err != nil {
			return err
		}
		if strings.HasPrefix(name, "..") {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		switch {
		case name == ".":
		case info.IsDir() && e.Type()&fs.ModeSymlink != 0:
			inner := tree(t, path+"/")
			for line := range strings.Lines(inner) {
				lines = append(lines, name+"/"+strings.TrimSuffix(line, "\n"))
			}
		case info.IsDir():
			lines = append(lines, name+"/")
		default:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			lines = append(lines, fmt.Sprintf("%s %04o %s", name, info.Mode().Perm(), data))
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 200 {
		if ok() {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("not within 4 s: %s", what)
}

func configMap(name string, data map[string]string) *v1.ConfigMap {
	return &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, ResourceVersion: "1"}, Data: data}
}

func TestContents(t *testing.T) {
	binary := configMap("cm", map[string]string{"a": "1", "b": "2"})
	binary.BinaryData = map[string][]byte{"bin": {'x'}}
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"password": []byte("geheim")}}
	items := []v1.KeyToPath{{Key: "a", Path: "deep/er/a", Mode: ptr.To[int32](0o400)}}
	ref := v1.LocalObjectReference{Name: "cm"}
	nowhere := v1.LocalObjectReference{Name: "nowhere"}

	for _, test := range []struct {
		name   string
		source v1.VolumeSource
		want   string
		err    string
	}{
		{name: "configMap", source: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref}},
			want: "a 0644 1\nb 0644 2\nbin 0644 x"},
		{name: "configMap with a mode", source: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref, DefaultMode: ptr.To[int32](0o440)}},
			want: "a 0440 1\nb 0440 2\nbin 0440 x"},
		{name: "configMap with items", source: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref, Items: items}},
			want: "deep/er/\ndeep/er/a 0400 1"},
		{name: "missing key", source: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref, Items: []v1.KeyToPath{{Key: "z", Path: "z"}}}},
			err: `MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: z`},
		{name: "missing key of an optional one", source: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref, Optional: ptr.To(true), Items: []v1.KeyToPath{{Key: "z", Path: "z"}}}},
			want: ""},
		{name: "missing configMap", source: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: nowhere}},
			err: `MountVolume.SetUp failed for volume "v" : configmap "nowhere" not found`},
		{name: "missing optional configMap", source: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: nowhere, Optional: ptr.To(true)}},
			want: ""},
		{name: "secret", source: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr.To[int32](0o400)}},
			want: "password 0400 geheim"},
		{name: "missing secret", source: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "nowhere"}},
			err: `MountVolume.SetUp failed for volume "v" : secret "nowhere" not found`},
		{name: "downwardAPI", source: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{
			{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}},
			{Path: "b", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels['b']"}},
			{Path: "cpu", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "c", Resource: "requests.cpu", Divisor: resource.MustParse("1m")}},
			{Path: "cpus", ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "c", Resource: "requests.cpu"}},
			{Path: "memory", Mode: ptr.To[int32](0o600), ResourceFieldRef: &v1.ResourceFieldSelector{ContainerName: "c", Resource: "limits.memory", Divisor: resource.MustParse("1Mi")}},
		}}}, want: "b 0644 2\ncpu 0644 250\ncpus 0644 1\nlabels 0644 a=\"say \\\"1\\\"\"\nb=\"2\"\nmemory 0600 1024"},
		{name: "projected", source: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
			{ConfigMap: &v1.ConfigMapProjection{LocalObjectReference: ref, Items: items}},
			{Secret: &v1.SecretProjection{LocalObjectReference: v1.LocalObjectReference{Name: "s"}}},
			{DownwardAPI: &v1.DownwardAPIProjection{Items: []v1.DownwardAPIVolumeFile{{Path: "name", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.name"}}}}},
			{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}},
		}}}, want: "deep/er/\ndeep/er/a 0400 1\nname 0644 p\npassword 0644 geheim\ntoken 0644 a.b.c"},
		{name: "trust bundle", source: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{ClusterTrustBundle: &v1.ClusterTrustBundleProjection{}}}}},
			err: `MountVolume.SetUp failed for volume "v" : clusterTrustBundle projections are not supported by this node`},
		{name: "path out of the volume", source: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: ref, Items: []v1.KeyToPath{{Key: "a", Path: "x/../../a"}}}},
			err: `MountVolume.SetUp failed for volume "v" : invalid path: must not contain '..': x/../../a`},
		{name: "nfs", source: v1.VolumeSource{NFS: &v1.NFSVolumeSource{}},
			err: `MountVolume.SetUp failed for volume "v" : no volume plugin matched: this node has none for volumes of type "nfs"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, _ := newManager(t, binary.DeepCopy(), secret.DeepCopy())
			pod := podWith(v1.Volume{Name: "v", VolumeSource: test.source})
			err := m.Mount(t.Context(), pod)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("got error %v, want %s", err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := tree(t, m.HostPath(pod, "v")); got != test.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, test.want)
			}
			if err := m.Mount(t.Context(), pod); err != nil {
				t.Errorf("mounting again: %v", err)
			}
		})
	}
}

func TestContentsFollowTheObject(t *testing.T) {
	m, client := newManager(t, configMap("cm", map[string]string{"a": "1", "gone": "x"}))
	pod := podWith(
		v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}},
		v1.Volume{Name: "later", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "later"}, Optional: ptr.To(true)}}},
		v1.Volume{Name: "labels", VolumeSource: v1.VolumeSource{DownwardAPI: &v1.DownwardAPIVolumeSource{Items: []v1.DownwardAPIVolumeFile{{Path: "labels", FieldRef: &v1.ObjectFieldSelector{FieldPath: "metadata.labels"}}}}}},
	)
	mustMount(t, m, pod)
	time.Sleep(50 * time.Millisecond) // the fake API server has no events for who watches later

	changed := configMap("cm", map[string]string{"a": "2", "new": "y"})
	changed.ResourceVersion = "2"
	if _, err := client.CoreV1().ConfigMaps("ns").Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().ConfigMaps("ns").Create(t.Context(), configMap("later", map[string]string{"k": "v"}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	relabelled := pod.DeepCopy()
	relabelled.Labels = map[string]string{"c": "3"}
	m.Update(relabelled)

	for volume, want := range map[string]string{"v": "a 0644 2\nnew 0644 y", "later": "k 0644 v", "labels": `labels 0644 c="3"`} {
		eventually(t, volume+" has "+want, func() bool { return tree(t, m.HostPath(pod, volume)) == want })
	}

	if err := client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "later", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a deleted optional ConfigMap leaves no files", func() bool { return tree(t, m.HostPath(pod, "later")) == "" })

	if err := client.CoreV1().ConfigMaps("ns").Delete(t.Context(), "cm", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	if got, want := tree(t, m.HostPath(pod, "v")), "a 0644 2\nnew 0644 y"; got != want {
		t.Errorf("after the ConfigMap was deleted: got %q, want %q as before", got, want)
	}
}

func TestUnchangedContentsAreNotRewritten(t *testing.T) {
	dir := t.TempDir()
	files := map[string]file{"a": {data: []byte("1"), mode: 0o644}}
	write := func() string {
		t.Helper()
		if err := replace(t.Context(), dir, files, nil); err != nil {
			t.Fatal(err)
		}
		data, err := os.Readlink(filepath.Join(dir, dataLink))
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	first := write()
	if again := write(); again != first {
		t.Errorf("same files: data directory went from %s to %s", first, again)
	}
	if err := os.Remove(filepath.Join(dir, "a")); err != nil {
		t.Fatal(err)
	}
	write()
	if _, err := os.Stat(filepath.Join(dir, "a")); err != nil {
		t.Errorf("a lost link was not made again: %v", err)
	}
	files["a"] = file{data: []byte("2"), mode: 0o644}
	if changed := write(); changed == first {
		t.Error("changed files: the data directory is the same")
	}
	if _, err := os.Stat(filepath.Join(dir, first)); !os.IsNotExist(err) {
		t.Errorf("old data directory: got %v, want it gone", err)
	}
}

func TestFSGroup(t *testing.T) {
	m, _ := newManager(t, &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "s"}, Data: map[string][]byte{"k": []byte("v")}})
	pod := podWith(
		v1.Volume{Name: "s", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{SecretName: "s", DefaultMode: ptr.To[int32](0o400)}}},
		v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
	)
	pod.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](1234)}
	mustMount(t, m, pod)
	for path, want := range map[string]fs.FileMode{
		m.HostPath(pod, "s") + "/k": 0o440,
		m.HostPath(pod, "e"):        0o777 | fs.ModeDir | fs.ModeSetgid,
	} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if gid := info.Sys().(*syscall.Stat_t).Gid; info.Mode() != want || gid != 1234 {
			t.Errorf("%s: got %v of group %d, want %v of group 1234", path, info.Mode(), gid, want)
		}
	}
}

func TestEmptyDir(t *testing.T) {
	m, _ := newManager(t)
	limit := resource.MustParse("1Mi")
	pod := podWith(
		v1.Volume{Name: "disk", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		v1.Volume{Name: "memory", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{Medium: v1.StorageMediumMemory, SizeLimit: &limit}}},
	)
	old := syscall.Umask(0o077)
	mustMount(t, m, pod)
	syscall.Umask(old)

	for _, volume := range []string{"disk", "memory"} {
		info, err := os.Stat(m.HostPath(pod, volume))
		if err != nil {
			t.Fatal(err)
		}
		if got, want := info.Mode().Perm(), fs.FileMode(0o777); got != want {
			t.Errorf("%s: got mode %v, want %v", volume, got, want)
		}
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(m.HostPath(pod, "memory"), &stat); err != nil {
		t.Fatal(err)
	}
	if size := int64(stat.Blocks) * stat.Bsize; stat.Type != unix.TMPFS_MAGIC || size != 1<<20 {
		t.Errorf("got file system %x of %d bytes, want tmpfs of %d", stat.Type, size, 1<<20)
	}

	// A kubelet that starts anew keeps what containers wrote, and takes down what it did not make.
	kept := filepath.Join(m.HostPath(pod, "memory"), "kept")
	if err := os.WriteFile(kept, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	after := New(m.cfg)
	mustMount(t, after, pod)
	if _, err := os.Stat(kept); err != nil {
		t.Errorf("mounting after a restart: %v", err)
	}
	again := New(m.cfg)
	for range 2 {
		if err := again.Unmount(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(again.PodDir(pod.UID)); !os.IsNotExist(err) {
		t.Errorf("pod directory: got %v, want it gone", err)
	}
}

func TestHostPath(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name string
		kind v1.HostPathType
		path string
		err  string
	}{
		{"no check", v1.HostPathUnset, dir + "/nothing", ""},
		{"directory", v1.HostPathDirectory, dir, ""},
		{"missing directory", v1.HostPathDirectory, dir + "/nothing", "hostPath type check failed: " + dir + "/nothing is not a directory"},
		{"file instead of directory", v1.HostPathDirectoryOrCreate, plain, "hostPath type check failed: " + plain + " is not a directory"},
		{"directory made", v1.HostPathDirectoryOrCreate, dir + "/a/b", ""},
		{"file", v1.HostPathFile, plain, ""},
		{"file made", v1.HostPathFileOrCreate, dir + "/made", ""},
		{"directory instead of file", v1.HostPathFile, dir, "hostPath type check failed: " + dir + " is not a file"},
		{"socket", v1.HostPathSocket, plain, "hostPath type check failed: " + plain + " is not a socket file"},
		{"character device", v1.HostPathCharDev, "/dev/null", ""},
		{"block device", v1.HostPathBlockDev, "/dev/null", "hostPath type check failed: /dev/null is not a block device"},
		{"nonsense", "Nonsense", dir, "Nonsense is an invalid volume type"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, _ := newManager(t)
			pod := podWith(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: test.path, Type: &test.kind}}})
			got := ""
			if err := m.Mount(t.Context(), pod); err != nil {
				got = strings.TrimPrefix(err.Error(), `MountVolume.SetUp failed for volume "v" : `)
			}
			if got != test.err {
				t.Errorf("got %q, want %q", got, test.err)
			}
		})
	}
}

func TestSubPath(t *testing.T) {
	m, _ := newManager(t, configMap("cm", map[string]string{"a": "1"}))
	pod := podWith(
		v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		v1.Volume{Name: "cm", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}},
	)
	mustMount(t, m, pod)
	root := m.HostPath(pod, "e")
	for name, target := range map[string]string{"out": "/etc", "up": "../..", "in": "sub"} {
		if err := os.Symlink(target, filepath.Join(root, name)); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct{ name, volume, path, err string }{
		{"made", "e", "sub/deep", ""},
		{"through a link inside", "e", "in/deep", ""},
		{"a file", "cm", "a", ""},
		{"link out of the volume", "e", "out/passwd", "not within volume path"},
		{"link up and out", "e", "up", "not within volume path"},
		{"absolute", "e", "/etc", "must not be an absolute path"},
		{"dots", "e", "a/../../b", "must not contain '..'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			path, err := m.SubPath(t.Context(), pod, "c", 0, v1.VolumeMount{Name: test.volume}, test.path)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("got %q, %v; want error with %q", path, err, test.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if mounted, err := isMount(path); !mounted {
				t.Errorf("%s is not mounted: %v", path, err)
			}
		})
	}
	info, err := os.Stat(filepath.Join(root, "sub/deep"))
	if err != nil || info.Mode().Perm() != 0o777 {
		t.Errorf("made directory: got %v, %v, want the volume's mode 0777", info, err)
	}

	// A bound directory stays the same when a container swaps what the path leads to.
	path, err := m.SubPath(t.Context(), pod, "c", 1, v1.VolumeMount{Name: "e"}, "sub")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(root, "sub"), filepath.Join(root, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(root, "sub")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(path, "deep")); err != nil {
		t.Errorf("after a swap: %v, want the old directory", err)
	}
}

// TestSubPathOfWhatIsNoDirectory has a hostPath volume that is a FIFO: opened for reading, it would not answer.
func TestSubPathOfWhatIsNoDirectory(t *testing.T) {
	m, _ := newManager(t)
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	pod := podWith(v1.Volume{Name: "f", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: fifo}}})
	mustMount(t, m, pod)
	if _, err := m.SubPath(t.Context(), pod, "c", 0, v1.VolumeMount{Name: "f"}, "sub"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("error %v, want that it is no directory", err)
	}
}

func TestRemovingNeverEntersMounts(t *testing.T) {
	m, _ := newManager(t)
	precious := t.TempDir()
	if err := os.WriteFile(filepath.Join(precious, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	point := filepath.Join(m.PodDir("uid-1"), "volumes/x/y z")
	if err := os.MkdirAll(point, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount(precious, point, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := untrusted.Remove(t.Context(), m.PodDir("uid-1")); err == nil {
		t.Error("removing over a mount: got no error")
	}
	if err := m.Unmount(t.Context(), "uid-1"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(precious, "file")); err != nil {
		t.Errorf("the mounted file: %v, want it untouched", err)
	}
}

func TestNestedMountPoints(t *testing.T) {
	m, _ := newManager(t, configMap("cm", map[string]string{"a": "1"}))
	pod := podWith(
		v1.Volume{Name: "cm", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}},
		v1.Volume{Name: "e", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
	)
	pod.Spec.Containers[0].VolumeMounts = []v1.VolumeMount{{Name: "cm", MountPath: "/etc/cm"}, {Name: "e", MountPath: "/etc/cm/data/"}}
	mustMount(t, m, pod)
	if got, want := tree(t, m.HostPath(pod, "cm")), "a 0644 1\ndata/"; got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

func TestWatchesEndWithTheirPods(t *testing.T) {
	m, _ := newManager(t, configMap("cm", nil))
	source := v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: "cm"}}}
	pods := []*v1.Pod{podWith(v1.Volume{Name: "v", VolumeSource: source}), podWith(v1.Volume{Name: "v", VolumeSource: source})}
	pods[1].UID = "uid-2"
	for i, pod := range pods {
		mustMount(t, m, pod)
		if got := len(m.configMaps.held); got != 1 {
			t.Errorf("watches with %d pods: got %d, want 1", i+1, got)
		}
	}
	for i, pod := range pods {
		if err := m.Unmount(t.Context(), pod.UID); err != nil {
			t.Fatal(err)
		}
		if got, want := len(m.configMaps.held), 1-i; got != want {
			t.Errorf("watches after %d pods are gone: got %d, want %d", i+1, got, want)
		}
	}
}

func TestTokenRenewal(t *testing.T) {
	issued := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		name      string
		life, age time.Duration
		want      bool
	}{
		{"young", time.Hour, 40 * time.Minute, false},
		{"at four fifths", time.Hour, 49 * time.Minute, true},
		{"long life, less than a day", 365 * 24 * time.Hour, 23 * time.Hour, false},
		{"long life, more than a day", 365 * 24 * time.Hour, 25 * time.Hour, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := token{issued: issued, expires: issued.Add(test.life)}.stale(issued.Add(test.age))
			if got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestTokenOwner(t *testing.T) {
	m, _ := newManager(t)
	pod := podWith(v1.Volume{Name: "t", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{
		Sources: []v1.VolumeProjection{{ServiceAccountToken: &v1.ServiceAccountTokenProjection{Path: "token"}}},
	}}})
	pod.Spec.SecurityContext = &v1.PodSecurityContext{RunAsUser: ptr.To[int64](1000)}
	mustMount(t, m, pod)
	info, err := os.Stat(m.HostPath(pod, "t") + "/token")
	if err != nil {
		t.Fatal(err)
	}
	if uid := info.Sys().(*syscall.Stat_t).Uid; uid != 1000 || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v of user %d, want 0600 of user 1000", info.Mode(), uid)
	}
}

// TestManyVolumes is what the wrapped-volume race test of the conformance suite does to one node.
func TestManyVolumes(t *testing.T) {
	var objects []runtime.Object
	var volumes []v1.Volume
	for i := range 50 {
		name := fmt.Sprintf("cm-%d", i)
		objects = append(objects, configMap(name, map[string]string{"data-1": "value-1"}))
		volumes = append(volumes, v1.Volume{Name: name, VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{LocalObjectReference: v1.LocalObjectReference{Name: name}}}})
	}
	m, _ := newManager(t, objects...)
	started := time.Now()
	errs := make(chan error)
	for i := range 5 {
		pod := podWith(volumes...)
		pod.UID = types.UID(fmt.Sprintf("uid-%d", i))
		go func() { errs <- m.Mount(t.Context(), pod) }()
	}
	for range 5 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	t.Logf("250 volumes in %v", time.Since(started))
}
