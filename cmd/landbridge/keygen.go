package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/landbridge/landbridge/internal/cli"
	"github.com/landbridge/landbridge/internal/identity"
)

func init() { commands = append(commands, newKeygen) }

func newKeygen() *cobra.Command {
	var public string
	cmd := &cobra.Command{
		Use:   "keygen FILE | keygen --public FILE",
		Short: "Make a node's key file and print its public key",
		Long: `Writes a new private key to FILE, readable by its owner only, and prints the public key, which goes into the
fleet document as public_key. An existing file is never overwritten. With --public, prints the public key of an
existing file.`,
		Example: "  landbridge keygen sha.key\n  landbridge keygen --public sha.key",
		Args: func(_ *cobra.Command, args []string) error {
			switch {
			case public == "" && len(args) != 1:
				return fmt.Errorf("keygen: %d files named, want 1", len(args))
			case public != "" && len(args) != 0:
				return fmt.Errorf("keygen: --public takes the only file")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			var key identity.PrivateKey
			var err error
			if public != "" {
				key, err = identity.Load(public)
			} else if key, err = identity.Generate(); err == nil {
				err = key.Save(args[0])
			}
			if err != nil {
				return cli.Usage(err)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), key.Public())
			return err
		},
	}
	cmd.Flags().StringVar(&public, "public", "", "print the public key of this key `FILE`")
	return cmd
}
