// Command images makes the container images of the examples from packages of
// the distribution and prints the archives it made.
package main

import (
	"flag"
	"fmt"
	"os"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/skiff-k8s/skiff/cluster/image"
)

func main() {
	out := flag.String("out", "bin/images", "folder for the archives")
	cache := flag.String("cache", "bin/images", "folder that keeps downloaded packages")
	flag.Parse()
	for _, i := range images(*cache) {
		archive, err := i.Ensure(*out)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		fmt.Println(archive)
	}
}

const path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func images(cache string) []image.Image {
	node := append(image.Layer{image.Packages{Names: []string{"nodejs"}, Cache: cache}}, image.Accounts...)
	redis := append(image.Layer{image.Packages{Names: []string{"redis-server", "dash"}, Cache: cache}, image.Folder{To: "data", Mode: 0o755}}, image.Accounts...)
	return []image.Image{
		{
			Reference: "localhost/skiff/examples/hello-node:v1",
			Layers:    []image.Layer{node, {image.File{From: "examples/hello-node/server.js", To: "app/server.js", Mode: 0o644}}},
			Config:    v1.Config{Entrypoint: []string{"node", "/app/server.js"}, Env: []string{path}},
		},
		{
			Reference: "localhost/skiff/examples/guestbook-frontend:v1",
			Layers: []image.Layer{node, {
				image.File{From: "examples/guestbook/frontend/server.js", To: "app/server.js", Mode: 0o644},
				image.File{From: "examples/guestbook/frontend/index.html", To: "app/index.html", Mode: 0o644},
			}},
			Config: v1.Config{Entrypoint: []string{"node", "/app/server.js"}, Env: []string{path}},
		},
		{
			Reference: "localhost/skiff/examples/redis-master:v1",
			Layers:    []image.Layer{redis},
			Config: v1.Config{
				Entrypoint: []string{"redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", ""},
				Env:        []string{path}, WorkingDir: "/data",
			},
		},
		{
			Reference: "localhost/skiff/examples/redis-slave:v1",
			Layers:    []image.Layer{redis, {image.File{From: "examples/guestbook/redis-slave.sh", To: "usr/local/bin/redis-slave"}}},
			Config:    v1.Config{Entrypoint: []string{"redis-slave"}, Env: []string{path}, WorkingDir: "/data"},
		},
	}
}
