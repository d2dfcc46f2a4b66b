// Command images makes the container images that the official conformance
// suite uses, under their upstream names, from packages of the distribution and
// from Go modules. They stand in for upstream's: where a test could see the
// difference, the image says so in its differs field, and the results do too.
package main

import (
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/skiff-k8s/skiff/cluster/image"
)

func main() {
	out := flag.String("out", "bin/images", "folder for the archives")
	tools := flag.String("tools", "bin/tools", "folder with agnhost and the other programs that the images are made of")
	module := flag.String("kubernetes", "", "folder of the module k8s.io/kubernetes")
	flag.Parse()
	if err := run(images(*out, *tools, *module), *out); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run makes the images and notes in differences.md, for the results, in what
// they differ from upstream's.
func run(images []standIn, out string) error {
	var differences strings.Builder
	for _, i := range images {
		begin := time.Now()
		archive, err := i.Ensure(out)
		if err != nil {
			return err
		}
		if info, err := os.Stat(archive); err == nil && info.ModTime().After(begin) {
			fmt.Println("made", archive)
		}
		if i.differs != "" {
			fmt.Fprintf(&differences, "- `%s`: %s.\n", i.Reference, i.differs)
		}
	}
	return os.WriteFile(filepath.Join(out, "differences.md"), []byte(differences.String()), 0o644)
}

type standIn struct {
	image.Image
	differs string
}

const (
	path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	e2e  = "registry.k8s.io/e2e-test-images/"
)

// images are those that the 446 tests use, and those of autoscaling, in the order of
// the suite's own list, and the suite itself.
func images(cache, tools, module string) []standIn {
	base := network(cache)
	agnhost := image.Layer{
		image.File{From: filepath.Join(tools, "agnhost"), To: "agnhost"},
		image.File{From: filepath.Join(tools, "coredns"), To: "coredns"},
		image.Link{To: "agnhost-2", Target: "agnhost"},
		image.File{From: filepath.Join(module, "test/images/agnhost/porter/localhost.crt"), To: "localhost.crt", Mode: 0o644},
		image.File{From: filepath.Join(module, "test/images/agnhost/porter/localhost.key"), To: "localhost.key", Mode: 0o644},
		image.Folder{To: "uploads", Mode: 0o755},
	}
	run := func(version string) v1.Config {
		return v1.Config{
			Entrypoint: []string{"/agnhost"}, Cmd: []string{"pause"}, Env: []string{path}, WorkingDir: "/",
			Labels: map[string]string{"version": version}, // tells two images of the same contents apart
		}
	}
	page := func(animal string) []image.Layer {
		return []image.Layer{base, agnhost, {image.Text{To: "data.json", Content: fmt.Sprintf("{\"image\": %q}\n", animal+".jpg")}}}
	}
	return []standIn{
		{
			Image:   image.Image{Reference: e2e + "agnhost:2.63.0", Layers: []image.Layer{base, agnhost}, Config: run("2.63.0")},
			differs: "curl, dig, nc and the like are Debian's, not Alpine's",
		},
		{
			Image:   image.Image{Reference: e2e + "agnhost:2.55", Layers: []image.Layer{base, agnhost}, Config: run("2.55")},
			differs: "the program and its tools are those of the stand-in for 2.63.0",
		},
		{
			Image: image.Image{
				Reference: e2e + "busybox:1.37.0-1", Layers: []image.Layer{busybox(tools)},
				Config: v1.Config{Cmd: []string{"sh"}, Env: []string{path}, WorkingDir: "/"},
			},
			differs: "built here from the same sources and with their own configuration, but without tc, and with another C library",
		},
		{
			Image: image.Image{
				Reference: e2e + "nginx:1.15-4", Layers: []image.Layer{web(cache)},
				Config: v1.Config{Cmd: []string{"nginx", "-g", "daemon off;"}, Env: []string{path}, StopSignal: "SIGQUIT"},
			},
			differs: "nginx is Debian's, of another version",
		},
		{Image: image.Image{
			Reference: e2e + "resource-consumer:1.14",
			Layers: []image.Layer{{
				image.Packages{Names: []string{"stress"}, Cache: cache},
				image.File{From: filepath.Join(tools, "resource-consumer", "resource-consumer"), To: "consumer"},
				image.File{From: filepath.Join(tools, "resource-consumer", "consume-cpu"), To: "consume-cpu/consume-cpu"},
			}},
			Config: v1.Config{Entrypoint: []string{"/consumer"}, Env: []string{path}, WorkingDir: "/"},
		}},
		{
			Image: image.Image{
				Reference: e2e + "nautilus:1.8", Layers: page("nautilus"),
				Config: v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}, Env: []string{path}, WorkingDir: "/"},
			},
			differs: "data.json names a picture that is not there",
		},
		{
			Image: image.Image{
				Reference: e2e + "kitten:1.8",
				Layers:    append(page("kitten"), image.Layer{image.Text{To: "etc/os-release", Content: "NAME=\"Alpine Linux\"\nID=alpine\n"}}),
				Config:    v1.Config{Entrypoint: []string{"/agnhost"}, Cmd: []string{"test-webserver"}, Env: []string{path}, WorkingDir: "/"},
			},
			differs: "a Debian tree whose etc/os-release says Alpine Linux, which one test looks for; data.json names a picture that is not there",
		},
		{Image: image.Image{
			Reference: e2e + "nonewprivs:1.4",
			Layers:    []image.Layer{{image.File{From: filepath.Join(tools, "nonewprivs"), To: "usr/local/bin/nnp", Mode: 0o755 | fs.ModeSetuid | fs.ModeSetgid}}},
			Config:    v1.Config{Cmd: []string{"nnp"}, Env: []string{path}},
		}},
		{Image: image.Image{
			Reference: e2e + "glibc-dns-testing:2.0.0", Layers: []image.Layer{base},
			Config: v1.Config{Cmd: []string{"bash"}, Env: []string{path}},
		}},
		{
			Image: image.Image{
				Reference: e2e + "sample-apiserver:1.29.2",
				Layers:    []image.Layer{{image.File{From: filepath.Join(tools, "sample-apiserver"), To: "sample-apiserver"}}, image.Accounts},
				Config:    v1.Config{Entrypoint: []string{"/sample-apiserver"}, Env: []string{path}, WorkingDir: "/"},
			},
			differs: "the program is that of Kubernetes 1.36",
		},
		{Image: image.Image{
			Reference: "registry.k8s.io/etcd:3.6.8-0",
			Layers:    []image.Layer{{image.File{From: filepath.Join(tools, "etcd"), To: "usr/local/bin/etcd"}}, image.Accounts},
			Config:    v1.Config{Cmd: []string{"etcd"}, Env: []string{path}, WorkingDir: "/"},
		}},
		{
			Image: image.Image{
				Reference: "registry.k8s.io/conformance:v1.36.3",
				Layers:    []image.Layer{base, suite(cache, tools)},
				Config: v1.Config{Entrypoint: []string{"kubeconformance"}, WorkingDir: "/", Env: []string{
					path, `E2E_FOCUS=\[Conformance\]`, "E2E_SKIP=", "E2E_PROVIDER=local", "E2E_PARALLEL=1", "E2E_VERBOSITY=4",
					"RESULTS_DIR=/tmp/results", "KUBECONFIG=",
				}},
			},
			differs: "/kubernetes/cluster, which no conformance test reads, is empty",
		},
	}
}

// suite is what runs the suite from inside a cluster.
func suite(cache, tools string) image.Layer {
	layer := image.Layer{
		image.Packages{Names: []string{"diffutils"}, Without: []string{"libc6"}, Cache: cache},
		image.File{From: filepath.Join(tools, "go-runner"), To: "usr/local/bin/kubeconformance"},
		image.Link{To: "gorunner", Target: "/usr/local/bin/kubeconformance"},
		image.Link{To: "run_e2e.sh", Target: "/usr/local/bin/kubeconformance"}, // the name older callers use
		image.Folder{To: "kubernetes/cluster", Mode: 0o755},
	}
	for _, program := range []string{"e2e.test", "ginkgo", "kubectl"} {
		layer = append(layer, image.File{From: filepath.Join(tools, program), To: "usr/local/bin/" + program})
	}
	return layer
}

// network is a tree with the tools that tests run to look at networks and names.
func network(cache string) image.Layer {
	return append(image.Layer{
		image.Packages{
			Names: []string{
				"bash", "bind9-dnsutils", "bind9-host", "coreutils", "curl", "dash", "debianutils", "findutils", "grep", "hostname", "iperf",
				"iproute2", "iputils-ping", "libc-bin", "mount", "netcat-openbsd", "procps", "sed", "util-linux", "wget",
			},
			Cache: cache,
		},
		image.Link{To: "usr/bin/nc", Target: "/bin/nc.openbsd"},
		image.Link{To: "usr/local/bin/iperf", Target: "/usr/bin/iperf"},
		image.Text{To: "etc/nsswitch.conf", Content: "passwd: files\ngroup: files\nhosts: files dns\n"},
	}, image.Accounts...)
}

func busybox(tools string) image.Layer {
	return append(image.Layer{
		image.File{From: filepath.Join(tools, "busybox"), To: "bin/busybox"},
		image.Applets{Program: "bin/busybox"},
		image.Folder{To: "var", Mode: 0o755},
		image.Folder{To: "home", Mode: 0o755},
	}, image.Accounts...)
}

func web(cache string) image.Layer {
	return append(image.Layer{
		image.Packages{Names: []string{"nginx-light", "dash", "coreutils"}, Without: []string{"iproute2"}, Cache: cache},
		image.Folder{To: "var/lib/nginx", Mode: 0o755},
		image.Folder{To: "var/log/nginx", Mode: 0o755},
		image.Folder{To: "run", Mode: 0o755},
		image.Folder{To: "var/www/html", Mode: 0o755},
		image.Text{To: "etc/nginx/nginx.conf", Content: "worker_processes 1;\npid /run/nginx.pid;\nerror_log /dev/stderr;\n" +
			"events {}\nhttp {\n  access_log /dev/stdout;\n  server {\n    listen 80;\n    root /var/www/html;\n  }\n}\n"},
		image.Text{To: "var/www/html/index.html", Content: "<h1>Welcome to nginx!</h1>\n"},
	}, append(image.Accounts, image.Text{To: "etc/passwd", Content: "root:x:0:0:root:/root:/bin/sh\nwww-data:x:33:33::/var/www:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/:/usr/sbin/nologin\n"},
		image.Text{To: "etc/group", Content: "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\n"})...)
}
